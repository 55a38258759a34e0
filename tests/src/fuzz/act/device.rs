// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The device: its DMA, its page requests and their tables, its resets, its group.

use super::*;

impl With<'_> {
    pub(super) fn dma(&self, choices: &mut Choices<'_>) -> Done {
        let (gva, other) = (choices.pick(&GVAS), choices.pick(&GVAS));
        let pasid = choices.pick(&PASIDS);
        let length = choices.pick(&[8, 64, 4096, 8192, 0x1_0000, 0]);
        let order = match choices.byte() % 6 {
            0 | 1 => Order::fill(gva, length, gva),
            2 => Order::checksum(gva, length),
            3 => Order::copy(gva, other, length),
            4 => Order::fetch_add(gva, 1),
            _ => Order::read(gva, length.min(4096), 0),
        };
        let flags = choices.byte();
        let order = if flags % 8 == 7 {
            order
        } else {
            order.at(pasid & 0xf_ffff)
        };
        let order = if flags & 16 != 0 {
            order.no_pri()
        } else {
            order
        };
        let order = if flags & 32 != 0 {
            order.no_ats()
        } else {
            order
        };
        self.scene.world.sides[self.side].with_device(|open| {
            if open.dma.submit(&order).is_err() {
                open.dma.abort();
            }
        });
        Ok(())
    }

    pub(super) fn request(&self, choices: &mut Choices<'_>) -> Done {
        let gva = choices.pick(&GVAS);
        let pasid = choices.pick(&PASIDS) & 0xf_ffff;
        let group = u32::from(choices.byte()) * 2;
        let flags = match choices.byte() % 8 {
            0..=3 => request::READ | request::PASID | request::LAST,
            4 => request::READ | request::WRITE | request::PASID,
            5 => request::READ | request::LAST,
            6 => request::PASID | request::LAST,
            _ => request::WRITE,
        };
        let count = choices.pick(&[1, 1, 1, 4, 70]);
        self.scene.world.sides[self.side].with_device(|open| {
            for index in 0..count {
                let address = gva + index * PAGE;
                open.dma
                    .raw_page_request(address, flags | request::ROGUE, pasid, group);
            }
        });
        Ok(())
    }

    pub(super) fn table(&self, choices: &mut Choices<'_>) -> Done {
        let world = self.scene.world;
        let tables = &world.tables;
        let table = &tables[usize::from(choices.byte()) % tables.len()];
        let other = &tables[usize::from(choices.byte()) % tables.len()];
        let level = choices.byte();
        let at = table.entry(level, choices.byte());
        let value = match choices.byte() % 10 {
            0 => table.first(level),
            1 => 0,
            2 => table.root | entry::RW,
            3 => other.root | entry::RW,
            4 => other.entry(level, 0) & entry::ADDRESS | entry::RW,
            // No memory of the guest's: an address of the host's process, and of the host.
            5 => self.scene.canary & entry::ADDRESS | entry::RW,
            6 => 0x10_0000 | entry::RW | entry::LARGE,
            7 => ELSEWHERE | entry::RW,
            8 => entry::ADDRESS | entry::RW,
            _ => u64::MAX,
        };
        world.memory.write_u64(at, value);
        Ok(())
    }

    pub(super) fn control(&self, choices: &mut Choices<'_>) -> Done {
        let way = choices.byte();
        self.scene.world.sides[self.side].with_device(|open| match way % 5 {
            0 => open.dma.flush_dtlb(),
            1 => open.dma.abort(),
            2 => open.dma.pause(way & 64 != 0),
            3 => open.dma.set_group_size(1 + u32::from(way) % 64),
            _ => drop(open.dma.register(reg::ENABLES)),
        });
        Ok(())
    }

    pub(super) fn reset(&self) -> Done {
        self.scene.world.sides[self.side].with_device(|open| open.reset());
        Ok(())
    }

    pub(super) fn detach(&self) -> Done {
        self.scene.world.sides[self.side].detach();
        Ok(())
    }

    pub(super) fn attach(&self) -> Done {
        self.scene.world.sides[self.side].attach(&self.scene.world.memory);
        Ok(())
    }

    pub(super) fn second(&self) -> Done {
        self.scene.world.sides[self.side].toggle_second();
        Ok(())
    }
}
