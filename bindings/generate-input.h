/* SPDX-License-Identifier: GPL-2.0 */
/* What bindgen reads for src/uapi.rs. */
#include <linux/iommufd.h>
#include <linux/vfio_ioasid.h>
