// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Plain implementations that the device's operations are held against: bit by bit, from
//! the polynomials, not from tables.

/// CRC by `polynomial` of `bits`, most significant bit of each byte first.
fn crc(polynomial: u64, bits: u32, seed: u64, data: impl Iterator<Item = u8>) -> u64 {
    let top = 1 << (bits - 1);
    let mask = (top << 1) - 1;
    data.fold(seed, |crc, byte| {
        (0..8).rev().fold(crc, |crc, bit| {
            let out = crc & top != 0;
            let shifted = crc << 1 & mask;
            if out != (byte >> bit & 1 == 1) {
                shifted ^ polynomial
            } else {
                shifted
            }
        })
    })
}

/// CRC-32C of `data`: seed and result inverted and reflected unless `plain`, each byte
/// reflected unless `plain_data`.
pub fn crc32c(seed: u32, data: &[u8], plain: bool, plain_data: bool) -> u32 {
    let begin = if plain { seed } else { !seed.reverse_bits() };
    let bytes = data.iter().map(|byte| {
        if plain_data {
            *byte
        } else {
            byte.reverse_bits()
        }
    });
    let end = crc(0x1edc_6f41, 32, begin.into(), bytes) as u32;
    if plain {
        end
    } else {
        !end.reverse_bits()
    }
}

/// The guard of T10 DIF.
pub fn guard(data: &[u8]) -> u16 {
    crc(0x8bb7, 16, 0, data.iter().copied()) as u16
}

/// A block of `data` with its field.
pub fn dif(data: &[u8], app: u16, reference: u32) -> Vec<u8> {
    let mut block = data.to_vec();
    block.extend(guard(data).to_be_bytes());
    block.extend(app.to_be_bytes());
    block.extend(reference.to_be_bytes());
    block
}

/// The delta from `old` to `new`.
pub fn delta(old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut record = Vec::new();
    for (n, (a, b)) in (0u16..).zip(old.chunks(8).zip(new.chunks(8))) {
        if a != b {
            record.extend(n.to_le_bytes());
            record.extend(b);
        }
    }
    record
}
