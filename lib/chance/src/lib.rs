//! Chance from a seed: what a thread asks the system for at random comes from a sequence that can be had again.
//!
//! A program that is linked with this crate has its own `getrandom`, which is where the standard library (the keys of hash
//! maps, and through these the fairness of tokio's `select!`), `getrandom` and so `rand` get what they begin with. Threads
//! that asked for a seed get its sequence; all others the kernel's random bytes, as ever. It belongs into the simulation's
//! test binary and nowhere else: `tests/layering.rs` holds that no program depends on it.

#![cfg_attr(test, allow(clippy::unwrap_used))]

use std::cell::Cell;

thread_local! {
    static STATE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From here on the thread's random bytes are the sequence of `seed`. To be called at the very beginning of a thread:
/// generators that it has seeded already go on with what they have.
pub fn seed_this_thread(seed: u64) {
    STATE.set(Some(seed));
}

/// The next eight bytes of the thread's sequence; none where it has no seed. SplitMix64 (Steele, Lea, Flood: "Fast
/// splittable pseudorandom number generators", 2014).
fn next() -> Option<[u8; 8]> {
    // A thread that is ending may have no state any more.
    let state = STATE.try_with(Cell::get).ok().flatten()?;
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    STATE.set(Some(state));
    let mut z = state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    Some((z ^ (z >> 31)).to_le_bytes())
}

/// As getrandom(2), for threads with a seed; otherwise it is getrandom(2).
///
/// # Safety
/// `buffer` has room for `length` bytes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "the C library's symbol is stood in for")]
// SAFETY: the signature is getrandom(2)'s; what is written is within the caller's buffer, whose length it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, flags: u32) -> isize {
    let mut done = 0;
    while done < length {
        let Some(bytes) = next() else {
            // SAFETY: the caller's own buffer and length, passed on to the kernel.
            return unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) as isize };
        };
        for byte in bytes.into_iter().take(length - done) {
            // SAFETY: `done` is less than `length`, for which there is room.
            unsafe { buffer.add(done).write(byte) };
            done += 1;
        }
    }
    isize::try_from(length).unwrap_or(isize::MAX)
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::seed_this_thread;
    use std::hash::BuildHasher;

    /// What a new thread's hash maps are keyed with.
    fn keyed(seed: Option<u64>) -> u64 {
        let thread = std::thread::spawn(move || {
            if let Some(seed) = seed {
                seed_this_thread(seed);
            }
            std::hash::RandomState::new().hash_one(1)
        });
        thread.join().unwrap()
    }

    #[test]
    fn a_seed_decides_what_is_random_on_its_thread_and_nowhere_else() {
        assert_eq!(keyed(Some(7)), keyed(Some(7)));
        assert_ne!(keyed(Some(7)), keyed(Some(8)));
        assert_ne!(keyed(None), keyed(None));
    }
}
