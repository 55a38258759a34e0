// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One random sequence of mappings and DMA, given to the module, vfio_iommu_type1 and iommufd on
//! twin endpoints: results, errno and the memory that they leave are compared after each step.

use host_iommu_tests::dice::Dice;
use host_iommu_tests::hosts::{Mapper, Way};
use host_iommu_tests::memory::{GuestMemory, PAGE};
use host_iommu_tests::rig::{endpoint_count, program, skip, status, Errno, Order, Outcome};
use std::os::unix::fs::FileExt;

const STEPS: u32 = 400;
/// Pages of memory, and of the addresses that they are mapped at.
const PAGES: u64 = 24;
const WINDOW: u64 = 48;
const AT: u64 = 64 << 30;

/// What is done, in pages, and at times not quite.
#[derive(Clone, Copy, Debug)]
enum Step {
    Map {
        page: u64,
        from: u64,
        size: u64,
    },
    Unmap {
        page: u64,
        size: u64,
    },
    Write {
        page: u64,
        bytes: u32,
        value: u64,
        ats: bool,
    },
}

impl Step {
    fn random(dice: &mut Dice) -> Self {
        let page = dice.roll(WINDOW);
        match dice.roll(10) {
            0..4 => {
                let from = dice.roll(PAGES);
                let size = 1 + dice.roll((PAGES - from).min(6));
                Self::Map { page, from, size }
            }
            4..6 => Self::Unmap {
                page,
                size: dice.roll(8),
            },
            _ => Self::Write {
                page,
                bytes: 8 * (1 + dice.roll(3 * PAGE / 8)) as u32,
                value: dice.roll(u64::MAX),
                ats: dice.roll(2) == 0,
            },
        }
    }
}

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Result {
    Mapped,
    Unmapped(u64),
    Refused(Errno),
    Written,
    Stopped,
}

impl Result {
    /// What iommufd has to agree on: it has its own errno, and refuses to unmap where there is
    /// nothing.
    fn outline(self) -> u64 {
        match self {
            Self::Mapped | Self::Written => 1,
            Self::Unmapped(size) => size,
            Self::Refused(_) | Self::Stopped => 0,
        }
    }
}

struct Twin {
    way: Way,
    mapper: Mapper,
    memory: GuestMemory,
}

impl Twin {
    fn open(way: Way, index: usize) -> Outcome<Self> {
        Ok(Self {
            way,
            mapper: Mapper::with_endpoint(way, index)?,
            memory: GuestMemory::new(0, PAGES * PAGE)?,
        })
    }

    fn take(&self, step: Step) -> Outcome<Result> {
        Ok(match step {
            Step::Map { page, from, size } => {
                let (iova, offset, size) = (AT + page * PAGE, from * PAGE, size * PAGE);
                match self
                    .mapper
                    .map_part(iova, self.memory.shared(), offset, size)
                {
                    Ok(()) => Result::Mapped,
                    Err(errno) => Result::Refused(errno),
                }
            }
            Step::Unmap { page, size } => match self.mapper.unmap(AT + page * PAGE, size * PAGE) {
                Ok(size) => Result::Unmapped(size),
                Err(errno) => Result::Refused(errno),
            },
            Step::Write {
                page,
                bytes,
                value,
                ats,
            } => {
                let order = Order::fill(AT + page * PAGE, bytes, value).no_pri();
                let order = if ats { order } else { order.no_ats() };
                match self.mapper.dma().wait(self.mapper.dma().submit(&order)?)? {
                    done if done.status == status::OK => Result::Written,
                    _ => Result::Stopped,
                }
            }
        })
    }

    fn bytes(&self) -> Outcome<Vec<u8>> {
        let mut bytes = vec![0; (PAGES * PAGE) as usize];
        self.memory.shared().file().read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }
}

fn same_steps_have_the_same_end(seed: u64) -> Outcome {
    if endpoint_count() < Way::ALL.len() {
        return skip("fewer endpoints than ways");
    }
    let mut twins = Vec::new();
    for (index, way) in Way::ALL.into_iter().enumerate() {
        twins.push(Twin::open(way, index)?);
    }
    let mut dice = Dice::new(seed);
    for number in 0..STEPS {
        let step = Step::random(&mut dice);
        let mut results = Vec::new();
        for twin in &twins {
            // An unmap that would cut a mapping in two changes nothing here and in type1; iommufd
            // has taken away what comes before that when it refuses.
            let cuts = matches!(
                (step, results.first()),
                (Step::Unmap { .. }, Some(Result::Refused(_)))
            );
            results.push(match twin.way {
                Way::Iommufd if cuts => results[0],
                _ => twin.take(step)?,
            });
        }
        let memory = twins.iter().map(Twin::bytes).collect::<Outcome<Vec<_>>>()?;
        for ((twin, &result), bytes) in twins.iter().zip(&results).zip(&memory) {
            let what = format!("seed {seed:#x}, step {number}, {step:?}, {:?}", twin.way);
            match twin.way {
                Way::Iommufd => assert_eq!(result.outline(), results[0].outline(), "{what}"),
                _ => assert_eq!(result, results[0], "{what}"),
            }
            assert!(*bytes == memory[0], "{what}: other memory");
        }
    }
    Ok(())
}

host_iommu_tests::cases! {
    first_sequence => same_steps_have_the_same_end(0x9e37_79b9_7f4a_7c15),
    second_sequence => same_steps_have_the_same_end(0xd1b5_4a32_d192_ed03),
    third_sequence => same_steps_have_the_same_end(0x94d0_49bb_1331_11eb),
}

program![first_sequence, second_sequence, third_sequence];
