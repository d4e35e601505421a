//! A call's workspace: one allocation, or in a call of a few microseconds room on its stack, cut into what its threads share and what each
//! of them has alone.
//!
//! Its size follows from the problem's lengths and the number of threads, so that a plan can tell it to the byte. Nothing in it is cleared
//! that is written before it is read: a call of a few microseconds would spend most of them on that.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Deref;

use crate::CpuError;

/// Bytes of a cache line, on which every part of a workspace begins.
const LINE: usize = 64;

#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Line(#[allow(dead_code, reason = "it is room")] [u8; LINE]);

/// Memory for one call.
#[derive(Debug)]
pub(crate) struct Workspace(Vec<Line>);

impl Workspace {
    /// Room for so many bytes, which parts that start on lines make whole lines.
    ///
    /// # Errors
    /// Where memory has no such room.
    pub(crate) fn new(bytes: usize) -> Result<Self, CpuError> {
        let mut lines = Vec::new();
        lines.try_reserve_exact(bytes.div_ceil(LINE)).map_err(|_| CpuError::Memory { bytes })?;
        Ok(Self(lines))
    }

    /// All of it.
    pub(crate) fn area(&mut self) -> Area<'_> {
        Area { start: self.0.as_mut_ptr().cast(), bytes: self.0.capacity() * LINE, lent: PhantomData }
    }
}

/// Memory for a call so short that allocating would be a good part of it.
#[derive(Debug)]
pub(crate) struct OnStack([MaybeUninit<Line>; Self::BYTES / LINE]);

impl OnStack {
    /// Room for rows of a few keys in f32, and for most in f64; a sixty-fourth of the two megabytes that threads have by default.
    pub(crate) const BYTES: usize = 32 << 10;

    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self([MaybeUninit::uninit(); Self::BYTES / LINE])
    }

    /// All of it.
    pub(crate) fn area(&mut self) -> Area<'_> {
        Area { start: self.0.as_mut_ptr().cast(), bytes: Self::BYTES, lent: PhantomData }
    }
}

/// Bytes that room for `count` records takes in a workspace.
pub(crate) fn bytes_of<X>(count: usize) -> usize {
    count.saturating_mul(size_of::<X>()).saturating_add(LINE - 1) / LINE * LINE
}

/// A piece of a workspace, which whoever has it has alone.
#[derive(Debug)]
pub(crate) struct Area<'a> {
    start: *mut u8,
    bytes: usize,
    lent: PhantomData<&'a mut u8>,
}

// SAFETY: an area is an exclusive borrow of plain memory.
unsafe impl Send for Area<'_> {}

impl<'a> Area<'a> {
    /// Takes that many bytes, whole lines, off its front.
    pub(crate) fn split(&mut self, bytes: usize) -> Area<'a> {
        assert!(bytes <= self.bytes && bytes.is_multiple_of(LINE), "a workspace too small");
        let front = Area { start: self.start, bytes, lent: PhantomData };
        self.start = self.start.wrapping_add(bytes);
        self.bytes -= bytes;
        front
    }

    /// Takes room for `count` records off its front.
    pub(crate) fn take<X>(&mut self, count: usize) -> &'a mut [MaybeUninit<X>] {
        const { assert!(align_of::<X>() <= LINE) };
        let front = self.split(bytes_of::<X>(count));
        // SAFETY: `front` is `count` records or more, on a line, borrowed by nobody else for the area's life.
        unsafe { std::slice::from_raw_parts_mut(front.start.cast(), count) }
    }
}

/// A list in a workspace, of at most as many records as there is room for.
#[derive(Debug)]
pub(crate) struct List<'a, X> {
    room: &'a mut [MaybeUninit<X>],
    len: usize,
}

impl<'a, X: Copy> List<'a, X> {
    /// An empty list.
    pub(crate) fn new(room: &'a mut [MaybeUninit<X>]) -> Self {
        Self { room, len: 0 }
    }

    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    pub(crate) fn push(&mut self, record: X) {
        self.room[self.len].write(record);
        self.len += 1;
    }

    pub(crate) fn extend(&mut self, records: impl Iterator<Item = X>) {
        records.for_each(|record| self.push(record));
    }

    /// The records, to be changed.
    pub(crate) fn records(&mut self) -> &mut [X] {
        // SAFETY: so many records have been pushed.
        unsafe { self.room[..self.len].assume_init_mut() }
    }
}

impl<X> Deref for List<'_, X> {
    type Target = [X];

    fn deref(&self) -> &[X] {
        // SAFETY: so many records have been pushed.
        unsafe { self.room[..self.len].assume_init_ref() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_lie_on_lines_side_by_side_and_fill_the_whole() {
        let bytes = bytes_of::<u8>(65) + bytes_of::<u64>(8) + bytes_of::<(u64, usize)>(5) + bytes_of::<f32>(0);
        assert_eq!(bytes, 128 + 64 + 128);
        let mut workspace = Workspace::new(bytes).expect("there is room");
        let mut area = workspace.area();
        let start = area.start as usize;
        assert_eq!(start % LINE, 0);
        let (first, second) = (area.take::<u8>(65), area.take::<u64>(8));
        let third = area.split(128).take::<(u64, usize)>(5);
        assert_eq!(
            [first.as_ptr() as usize, second.as_ptr() as usize, third.as_ptr() as usize],
            [start, start + 128, start + 192]
        );
        assert_eq!((first.len(), second.len(), third.len(), area.take::<f32>(0).len(), area.bytes), (65, 8, 5, 0, 0));
        assert_eq!(bytes_of::<f64>(usize::MAX) % LINE, 0);
    }

    #[test]
    #[should_panic(expected = "a workspace too small")]
    fn no_part_reaches_past_the_end() {
        Workspace::new(64).expect("there is room").area().take::<u8>(65);
    }

    #[test]
    fn too_much_is_an_error() {
        assert!(matches!(Workspace::new(usize::MAX / LINE * LINE), Err(CpuError::Memory { bytes }) if bytes > 1 << 62));
    }

    #[test]
    fn a_list_holds_what_was_pushed() {
        let mut workspace = Workspace::new(64).expect("there is room");
        let mut list = List::new(workspace.area().take::<u32>(3));
        list.extend([3, 1].into_iter());
        list.records().sort_unstable();
        assert_eq!(list[..], [1, 3]);
        list.clear();
        list.push(7);
        assert_eq!(list[..], [7]);
    }
}
