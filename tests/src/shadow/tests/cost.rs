// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a shadow counts.

use super::*;

#[test]
fn cost_is_that_of_the_tables_in_the_range() {
    let memory = filled();
    memory.alloc(TABLES, PAGE);
    let table = Table::new(&memory);
    for page in 0..600u64 {
        table.set_entry(AT + page * PAGE, 1, PAGE_0 | 3);
    }
    let view = view(&memory).expect("a view");
    let soft = Soft::new();
    let device = soft.bus().add(DEVICE, &SoftDeviceOptions::default());
    device.expect("a device");
    let shadow = Shadow::over(soft, view, Shadowing::CachingMode).expect("a shadow");
    let all = range(0, SIZE);
    let mapping = Mapping {
        memory: memory.shared(),
        offset: 0,
        range: all,
        access: MapAccess::ReadWrite,
    };
    shadow.map(&mapping).expect("a mapping");
    let pasid = shadow.alloc_pasids(&PasidRequest::any()).expect("a PASID");
    let bound = GuestTable {
        format: TableFormat::SecondStage,
        ..GuestTable::four_level(Gpa(table.root()))
    };
    let binding = Binding {
        device: DEVICE,
        pasid,
        translation: bound.into(),
        fault_queue: None,
        replace: false,
    };
    shadow.bind(&binding).expect("a binding");
    let cost = shadow.cost();
    assert_eq!((cost.entries, cost.mapped, cost.unmapped), (600, 600, 0));
    // One at each of the upper levels, two of the last.
    assert_eq!(cost.tables, 5);
    assert!(cost.entries < MAX_ENTRIES as u64);
    table.set_entry(AT, 1, PAGE_1 | 3);
    let entry = InvalidationEntry {
        range: range(AT, PAGE),
        leaf_only: true,
    };
    let scope = Scope::Binding(DEVICE, pasid);
    shadow.invalidate(scope, &[entry]).expect("an invalidation");
    let cost = shadow.cost();
    assert_eq!((cost.entries, cost.mapped, cost.unmapped), (600, 601, 1));
    assert_eq!(cost.tables, 9);
    assert_eq!((cost.bound, cost.invalidated), (1, 1));
    assert_eq!((cost.refused, cost.incomplete), (0, 0));
    shadow.unbind(Scope::All).expect("an unbinding");
    assert_eq!(shadow.cost().entries, 0);
    // A root that is no page.
    let refused = Binding {
        translation: GuestTable {
            root: Gpa(table.root() + 8),
            ..bound
        }
        .into(),
        ..binding
    };
    shadow.bind(&refused).expect_err("no page");
    assert_eq!((shadow.cost().bound, shadow.cost().refused), (1, 1));
    // Each of its entries leads to itself: there is no end of entries.
    let endless = memory.alloc_page();
    for index in 0..512 {
        memory.write_u64(endless + 8 * index, endless | 3);
    }
    table.set_entry(0, 4, endless | 3);
    shadow.bind(&binding).expect_err("it has no end");
    let cost = shadow.cost();
    assert_eq!((cost.bound, cost.refused, cost.incomplete), (1, 2, 1));
}
