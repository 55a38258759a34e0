// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The module's pure parts, from their own sources, against simple models.

#[allow(dead_code, reason = "the module uses what is not tested here")]
#[path = "../../kmod/base/iova.rs"]
mod iova;
#[allow(dead_code, reason = "the module uses what is not tested here")]
#[path = "../../kmod/pasid/pool.rs"]
mod pool;
#[allow(dead_code, reason = "the module uses what is not tested here")]
#[path = "../../kmod/fault/queue.rs"]
mod queue;

#[path = "module_logic/fault_queue.rs"]
mod fault_queue;
#[path = "module_logic/iova_ranges.rs"]
mod iova_ranges;
#[path = "module_logic/pasid_pool.rs"]
mod pasid_pool;
