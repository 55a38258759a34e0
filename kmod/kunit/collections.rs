// SPDX-License-Identifier: GPL-2.0
//! Values of which there is one as a rule.

use kernel::prelude::*;

#[allow(unsafe_code, reason = "what the macro makes of it")]
#[kunit_tests(ioasid_collections)]
mod tests {
    use super::*;
    use crate::base::inline_first::InlineFirst;

    #[test]
    fn first_needs_no_room_and_others_do() -> Result {
        let mut values = InlineFirst::new();
        assert!(values.push_within_capacity(1).is_ok());
        assert_eq!(values.push_within_capacity(2), Err(2));
        values.push(2, GFP_KERNEL)?;
        assert_eq!(values.len(), 2);
        Ok(())
    }

    #[test]
    fn room_for_a_batch_is_room_for_all_of_it() -> Result {
        const COUNT: usize = 64;

        let mut values = InlineFirst::with_capacity(COUNT, GFP_KERNEL)?;
        for value in 0..COUNT {
            assert!(values.push_within_capacity(value).is_ok());
        }
        assert_eq!(values.len(), COUNT);
        assert!(values.iter().copied().eq(0..COUNT));
        for value in values.iter_mut() {
            *value += 1;
        }
        assert!(values.into_iter().eq(1..=COUNT));
        Ok(())
    }
}
