// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A call of the fuzzer's: what it is, and choices from which its arguments are made.
//!
//! The same file is part of the program that boots the machine, which writes calls down after a
//! crash and takes some out.

use std::fmt;

/// Bytes of a call.
pub const CALL: usize = 16;

/// Choices of a call, besides how it is misshapen.
const CHOICES: usize = CALL - 3;

macro_rules! kinds {
    ($($kind:ident $name:literal $weight:literal,)+) => {
        /// What a call is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        #[allow(missing_docs, reason = "named by the ABI's calls and by what they do")]
        pub enum Kind { $($kind),+ }

        impl Kind {
            /// All, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$kind),+];

            /// Its name in a file of calls.
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => $name),+ }
            }

            /// How often it is chosen, beside the others'.
            pub fn weight(self) -> u64 {
                match self { $(Self::$kind => $weight),+ }
            }
        }
    };
}

kinds! {
    // The start of a world: what came before does not matter for what comes after.
    World "world" 0,
    // A bug on purpose, where the run was asked for one.
    Planted "planted" 0,
    Map "map" 200,
    Unmap "unmap" 160,
    Dirty "dirty" 80,
    Info "info" 30,
    Extension "extension" 20,
    PasidAlloc "pasid_alloc" 200,
    PasidFree "pasid_free" 100,
    Bind "bind" 480,
    Unbind "unbind" 160,
    Invalidate "invalidate" 240,
    Queue "queue" 160,
    Devices "devices" 30,
    Stats "stats" 20,
    AsCreate "as_create" 100,
    AsDestroy "as_destroy" 60,
    AsMap "as_map" 200,
    AsUnmap "as_unmap" 100,
    Unknown "unknown" 10,
    Read "read" 200,
    Write "write" 240,
    Poll "poll" 60,
    QueueClose "queue_close" 80,
    QueueCopy "queue_copy" 40,
    QueueCall "queue_call" 20,
    Dma "dma" 280,
    Request "request" 240,
    Table "table" 160,
    Control "control" 40,
    Reset "reset" 20,
    Detach "detach" 20,
    Attach "attach" 60,
    Second "second" 60,
    Inspect "inspect" 40,
    Child "child" 6,
}

impl Kind {
    /// Whether it takes long, so that it is rare.
    pub fn is_slow(self) -> bool {
        matches!(
            self,
            Self::Reset | Self::Detach | Self::Attach | Self::Second | Self::Inspect | Self::Child
        )
    }
}

/// A call: the kind's number, how it is misshapen, and choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call(pub [u8; CALL]);

impl Call {
    /// A call of that kind with the first of each choice: most do what a VMM would.
    pub fn plain(kind: Kind) -> Self {
        let mut bytes = [0; CALL];
        bytes[0] = kind as u8;
        Self(bytes)
    }

    /// What it is.
    pub fn kind(&self) -> Option<Kind> {
        Kind::ALL.get(usize::from(self.0[0])).copied()
    }

    /// How the argument is misshapen: the way, and where.
    pub fn shape(&self) -> (u8, u8) {
        (self.0[1], self.0[2])
    }

    /// The choices, from the first.
    pub fn choices(&self) -> Choices<'_> {
        Choices(self.0[3..].iter())
    }

    /// As two numbers.
    pub fn to_words(self) -> [u64; 2] {
        let word = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&self.0[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        [word(0), word(8)]
    }

    /// Of two numbers.
    pub fn from_words([low, high]: [u64; 2]) -> Self {
        let mut bytes = [0; CALL];
        bytes[..8].copy_from_slice(&low.to_le_bytes());
        bytes[8..].copy_from_slice(&high.to_le_bytes());
        Self(bytes)
    }

    /// Reads what [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let name = words.next()?;
        let kind = Kind::ALL.iter().find(|kind| kind.name() == name)?;
        let mut call = Self::plain(*kind);
        for (at, word) in words.enumerate() {
            *call.0.get_mut(at + 1)? = word.parse().ok()?;
        }
        Some(call)
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind().map_or("none", Kind::name))?;
        let used = self.0.iter().rposition(|&byte| byte != 0).unwrap_or(0);
        for byte in &self.0[1..=used.max(1)] {
            write!(f, " {byte}")?;
        }
        Ok(())
    }
}

/// Choices that are left.
pub struct Choices<'a>(std::slice::Iter<'a, u8>);

impl Choices<'_> {
    /// The next choice; zero where there are none left.
    pub fn byte(&mut self) -> u8 {
        self.0.next().copied().unwrap_or(0)
    }

    /// One of them, the first of all if the choice is zero.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.byte()) % from.len()]
    }
}

/// Calls in a row.
pub type Program = Vec<Call>;

/// A program on a line.
pub fn program_text(program: &[Call]) -> String {
    let calls: Vec<_> = program.iter().map(Call::to_string).collect();
    calls.join("; ")
}

/// Reads what [`program_text`] writes.
pub fn parse_program(text: &str) -> Option<Program> {
    text.split(';').map(Call::parse).collect()
}

/// What threads did, each from the start of the world on: a file of lines `thread` and calls.
pub fn threads_text(threads: &[Program]) -> String {
    let mut text = String::new();
    for calls in threads {
        text.push_str("thread\n");
        for call in calls {
            text.push_str(&format!("{call}\n"));
        }
    }
    text
}

/// Reads what [`threads_text`] writes; `#` begins a comment. An error is the line that is wrong.
pub fn parse_threads(text: &str) -> Result<Vec<Program>, String> {
    let mut threads: Vec<Program> = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or("").trim();
        if line.is_empty() {
            continue;
        }
        if line == "thread" {
            threads.push(Program::new());
            continue;
        }
        match (threads.last_mut(), Call::parse(line)) {
            (Some(thread), Some(call)) => thread.push(call),
            _ => return Err(line.to_owned()),
        }
    }
    Ok(threads)
}

/// Where the calls of each thread are written down, in memory that outlives the machine.
pub mod ring {
    use super::{Call, Kind, Program};

    /// Threads that have a place.
    pub const THREADS: usize = 8;
    /// Calls that a thread's place holds: more than a thread makes in a world.
    pub const ENTRIES: usize = 8192;
    /// Bytes of a thread's place: how many calls were ever written, then the calls.
    const PLACE: usize = 4096 + ENTRIES * super::CALL;
    /// Bytes of it all, a power of two.
    pub const SIZE: usize = 2 << 20;
    const _: () = assert!(THREADS * PLACE <= SIZE);

    /// Where the count of a thread is.
    pub fn count_at(thread: usize) -> u64 {
        (thread % THREADS * PLACE) as u64
    }

    /// Where call number `count` of a thread goes.
    pub fn call_at(thread: usize, count: u64) -> u64 {
        let entry = (count % ENTRIES as u64) * super::CALL as u64;
        count_at(thread) + 4096 + entry
    }

    /// What each thread did in the last world.
    pub fn read(bytes: &[u8]) -> Vec<Program> {
        let word = |at: u64| -> u64 {
            let at = at as usize;
            let bytes = bytes.get(at..at + 8).and_then(|word| word.try_into().ok());
            bytes.map_or(0, u64::from_le_bytes)
        };
        let mut threads = Vec::new();
        for thread in 0..THREADS {
            let count = word(count_at(thread));
            let first = count.saturating_sub(ENTRIES as u64);
            let calls: Program = (first..count)
                .map(|index| call_at(thread, index))
                .map(|at| Call::from_words([word(at), word(at + 8)]))
                .collect();
            let world = calls
                .iter()
                .rposition(|call| call.kind() == Some(Kind::World));
            let calls = calls[world.unwrap_or(0)..].to_vec();
            if !calls.is_empty() {
                threads.push(calls);
            }
        }
        threads
    }
}

/// The number of choices, for whoever makes calls.
pub const fn choices() -> usize {
    CHOICES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_as_text_is_read_back() {
        let mut call = Call::plain(Kind::Bind);
        assert_eq!(call.to_string(), "bind 0");
        assert_eq!(Call::parse(&call.to_string()), Some(call));
        call.0[CALL - 1] = 200;
        assert_eq!(Call::parse(&call.to_string()), Some(call));
        assert_eq!(Call::from_words(call.to_words()), call);
        for wrong in [
            "",
            "nothing",
            "bind 256",
            "bind 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16",
        ] {
            assert_eq!(Call::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn threads_as_text_are_read_back() {
        let threads = vec![
            vec![Call::plain(Kind::World), Call::plain(Kind::Map)],
            vec![Call::plain(Kind::Stats)],
        ];
        let text = format!("# why\n\n{}", threads_text(&threads));
        assert_eq!(parse_threads(&text), Ok(threads.clone()));
        assert_eq!(
            parse_program(&program_text(&threads[0])),
            Some(threads[0].clone())
        );
        assert_eq!(parse_threads("map 0\n"), Err("map 0".to_owned()));
    }

    #[test]
    fn ring_gives_what_came_since_the_start_of_the_last_world() {
        let mut bytes = vec![0; ring::SIZE];
        let mut put = |at: u64, word: u64| {
            let at = at as usize;
            bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        };
        let calls = [Kind::World, Kind::Map, Kind::World, Kind::Stats, Kind::Poll];
        let first = ring::ENTRIES as u64 - 2;
        for (count, kind) in (first..).zip(calls) {
            let [low, high] = Call::plain(kind).to_words();
            put(ring::call_at(3, count), low);
            put(ring::call_at(3, count) + 8, high);
        }
        put(ring::count_at(3), first + calls.len() as u64);
        let kinds = [Kind::World, Kind::Stats, Kind::Poll].map(Call::plain);
        assert_eq!(ring::read(&bytes), [kinds.to_vec()]);
    }
}
