// SPDX-License-Identifier: GPL-2.0
//! The bindings of a container, from their announcement to their end.

use kernel::prelude::*;

#[allow(unsafe_code, reason = "what the macro makes of it")]
#[kunit_tests(ioasid_bindings)]
mod tests {
    use super::*;
    use crate::budget::{Owner, Resource};
    use crate::ffi::abi;
    use crate::ffi::attach::Site;
    use crate::ffi::device::Bdf;
    use crate::ffi::errno::edquot;
    use crate::ffi::limits::Limit;
    use crate::nesting::{Announced, Binding, BindingKey, BoundKind, Nesting};
    use kernel::rbtree::RBTreeNodeReservation;

    const DEVICE: Bdf = Bdf {
        segment: 1,
        bus: 2,
        devfn: 3,
    };

    fn at(pasid: u32) -> BindingKey {
        BindingKey::new(Site::Pasid(pasid), DEVICE)
    }

    fn stage_2(owner: &Owner, cookie: u64) -> Result<Binding> {
        Ok(Binding {
            kind: BoundKind::Stage2,
            cookie,
            _share: Some(owner.take(Resource::Domains, 1)?),
            ..Binding::blocked(0, 0)
        })
    }

    fn announce(nesting: &mut Nesting, pasid: u32, binding: Binding) -> Result<Announced> {
        let node = RBTreeNodeReservation::new(GFP_KERNEL)?;
        nesting.announce(at(pasid), binding, node)
    }

    fn bound(nesting: &Nesting) -> u64 {
        let mut stats = abi::vfio_ioasid_stats::default();
        nesting.fill_stats(&mut stats);
        stats.bindings
    }

    fn cookie(nesting: &Nesting, pasid: u32) -> Option<u64> {
        nesting.with_binding(&at(pasid), |binding| binding.cookie)
    }

    #[test]
    fn key_says_site_and_device_again() {
        for site in [Site::Rid, Site::Pasid(1), Site::Pasid((1 << 20) - 1)] {
            let key = BindingKey::new(site, DEVICE);
            assert_eq!(key.site(), site);
            assert_eq!(key.device(), DEVICE);
        }
        assert!(BindingKey::new(Site::Rid, DEVICE) < at(1));
        assert!(BindingKey::first_of(5) < at(5));
        assert!(at(5) < BindingKey::first_of(6));
    }

    #[test]
    fn replacement_is_in_force_when_it_is_confirmed() -> Result {
        let owner = Owner::current()?;
        let mut nesting = Nesting::new(owner.clone());
        let first = announce(&mut nesting, 5, stage_2(&owner, 1)?)?;
        assert!(nesting.confirm(&at(5), first).is_none());
        assert_eq!(bound(&nesting), 1);
        let second = announce(&mut nesting, 5, stage_2(&owner, 2)?)?;
        assert_eq!(cookie(&nesting, 5), Some(1));
        assert_eq!(bound(&nesting), 1);
        let old = nesting.confirm(&at(5), second);
        assert_eq!(old.map(|old| old.cookie), Some(1));
        assert_eq!(cookie(&nesting, 5), Some(2));
        assert_eq!(bound(&nesting), 1);
        assert!(nesting.remove(&at(5)).is_some());
        assert_eq!(bound(&nesting), 0);
        Ok(())
    }

    #[test]
    fn withdrawn_replacement_leaves_what_was_there() -> Result {
        let owner = Owner::current()?;
        let mut nesting = Nesting::new(owner.clone());
        let blocked = announce(&mut nesting, 5, Binding::blocked(0, 1))?;
        nesting.confirm(&at(5), blocked);
        assert_eq!(bound(&nesting), 0);
        let beside = announce(&mut nesting, 5, stage_2(&owner, 2)?)?;
        assert_eq!(bound(&nesting), 1);
        assert!(nesting.withdraw(&at(5), beside).is_some());
        assert_eq!(bound(&nesting), 0);
        assert_eq!(cookie(&nesting, 5), Some(1));
        let alone = announce(&mut nesting, 6, stage_2(&owner, 3)?)?;
        assert!(nesting.withdraw(&at(6), alone).is_some());
        assert_eq!(cookie(&nesting, 6), None);
        assert_eq!(bound(&nesting), 0);
        Ok(())
    }

    #[test]
    fn blocked_does_not_count() -> Result {
        let owner = Owner::current()?;
        let mut nesting = Nesting::new(owner.clone());
        let first = announce(&mut nesting, 5, stage_2(&owner, 1)?)?;
        nesting.confirm(&at(5), first);
        assert!(nesting.replace(&at(5), Binding::blocked(0, 2)).is_some());
        assert_eq!(bound(&nesting), 0);
        assert!(nesting.replace(&at(5), stage_2(&owner, 3)?).is_some());
        assert_eq!(bound(&nesting), 1);
        Ok(())
    }

    #[test]
    fn quota_is_for_what_counts() -> Result {
        let owner = Owner::current()?;
        let mut nesting = Nesting::new(owner.clone());
        let most = Limit::Bindings.get();
        for pasid in 1..=most {
            let announced = announce(&mut nesting, pasid, stage_2(&owner, 0)?)?;
            nesting.confirm(&at(pasid), announced);
        }
        let refused = announce(&mut nesting, most + 1, stage_2(&owner, 0)?).map(|_| ());
        assert_eq!(refused, Err(edquot()));
        assert!(announce(&mut nesting, most + 1, Binding::blocked(0, 0)).is_ok());
        assert!(announce(&mut nesting, 1, stage_2(&owner, 0)?).is_ok());
        assert_eq!(bound(&nesting), u64::from(most));
        Ok(())
    }
}
