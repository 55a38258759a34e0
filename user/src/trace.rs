// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the feature `tracing` tells of; without it nothing of this is compiled.

/// An event of the target `host_iommu`.
macro_rules! tell {
    ($level:ident, $($fields:tt)*) => {{
        #[cfg(feature = "tracing")]
        {
            tracing::$level!(target: "host_iommu", $($fields)*);
        }
    }};
}
pub(crate) use tell;

use crate::error::Result;

/// Tells of a failure, and gives the result back.
pub(crate) fn trace_failure<T>(result: Result<T>) -> Result<T> {
    #[cfg(feature = "tracing")]
    if let Err(error) = &result {
        tell!(debug, errno = error.errno(), "{error}");
    }
    result
}
