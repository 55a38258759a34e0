// SPDX-License-Identifier: GPL-2.0
//! What users may have.

use kernel::prelude::*;

#[allow(unsafe_code, reason = "what the macro makes of it")]
#[kunit_tests(ioasid_budget)]
mod tests {
    use super::*;
    use crate::budget::{Owner, Resource};
    use crate::ffi::errno::edquot;

    #[test]
    fn share_is_counted_until_it_goes() -> Result {
        let owner = Owner::current()?;
        let before = Resource::Records.taken();
        let mut share = owner.take(Resource::Records, 3)?;
        assert_eq!(Resource::Records.taken(), before + 3);
        share.grow(4)?;
        assert_eq!(Resource::Records.taken(), before + 7);
        share.give_back(2);
        assert_eq!(Resource::Records.taken(), before + 5);
        share.give_back(u32::MAX);
        assert_eq!(Resource::Records.taken(), before);
        share.grow(1)?;
        drop(share);
        assert_eq!(Resource::Records.taken(), before);
        Ok(())
    }

    #[test]
    fn users_limit_holds_over_all_that_a_user_has() -> Result {
        let (owner, again) = (Owner::current()?, Owner::current()?);
        let before = Resource::Queues.taken();
        let left = Resource::Queues.user_limit() - before;
        let all = owner.take(Resource::Queues, left)?;
        let refused = again.take(Resource::Queues, 1).map(|_| ());
        assert_eq!(refused, Err(edquot()));
        assert_eq!(Resource::Queues.taken(), before + left);
        drop(all);
        drop(again.take(Resource::Queues, 1)?);
        assert_eq!(Resource::Queues.taken(), before);
        Ok(())
    }

    #[test]
    fn sum_that_does_not_fit_is_refused() -> Result {
        let owner = Owner::current()?;
        let _one = owner.take(Resource::Pasids, 1)?;
        let before = Resource::Pasids.taken();
        let refused = owner.take(Resource::Pasids, u32::MAX).map(|_| ());
        assert_eq!(refused, Err(edquot()));
        assert_eq!(Resource::Pasids.taken(), before);
        Ok(())
    }
}
