//! The counting allocator, alone in a process so that nothing else allocates meanwhile.

use std::hint::black_box;

use attn_benches::alloc::{Counting, Seen, Watch};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn peak_and_remainder_are_counted_to_the_byte() {
    const SIZE: usize = 3 << 20;

    let watch = Watch::start();
    let first = black_box(vec![1u8; SIZE]);
    let second = black_box(vec![0u8; 2 * SIZE]); // zeroed memory comes another way
    drop(first);
    let third = black_box(vec![1u8; SIZE]);
    drop(third);
    let seen = watch.stop();
    assert_eq!(seen, Seen { peak: 3 * SIZE as u64, kept: 2 * SIZE as u64 });

    // What lived before is not counted, nor does giving it back count below zero.
    let watch = Watch::start();
    drop(second);
    assert_eq!(watch.stop(), Seen { peak: 0, kept: 0 });

    // While a buffer moves, old and new may both be alive.
    let mut growing: Vec<u8> = Vec::with_capacity(SIZE);
    growing.push(1);
    let watch = Watch::start();
    growing.reserve_exact(2 * SIZE - 1);
    let seen = watch.stop();
    assert_eq!(seen, Seen { peak: 2 * SIZE as u64, kept: SIZE as u64 });
    drop(black_box(growing));

    // Other threads count as well.
    let watch = Watch::start();
    let made = std::thread::spawn(|| vec![1u8; SIZE]).join().expect("the thread does nothing else");
    let seen = watch.stop();
    assert!(seen.peak >= SIZE as u64 && seen.kept >= SIZE as u64, "{seen:?}");
    drop(black_box(made));
}
