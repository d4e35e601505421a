//! A checked expression, ready to be judged block by block and evaluated word by word.

use std::ops::Range;

use super::{MaskExpr, MaskShape, Pair, PairFunction};
use crate::block_mask::{BLOCK, low_bits};
use crate::{AttentionError, Coverage};

/// A query: its indices and its position among the keys.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub batch: usize,
    pub head: usize,
    pub query: usize,
    pub position: i64,
}

/// An expression whose arguments fit its shape.
pub(super) enum Node<'a> {
    /// Keys between two bounds that grow with the position.
    Between(Bounds<'a>),
    Strided(i64),
    Columns {
        step: usize,
        width: usize,
    },
    Keys(&'a [usize]),
    Queries(&'a [usize]),
    /// Of each block of queries, the blocks of keys, sorted.
    Blocks {
        size: usize,
        seen: Vec<Vec<usize>>,
    },
    Documents {
        ids: &'a [Vec<u32>],
        least_most: Vec<Vec<(u32, u32)>>,
    },
    PerHead(Vec<Node<'a>>),
    Function(&'a PairFunction),
    And(Vec<Node<'a>>),
    Or(Vec<Node<'a>>),
    Not(Box<Node<'a>>),
}

/// The first and the end of the keys that a query sees.
#[derive(Debug, Clone, Copy)]
pub(super) enum Bounds<'a> {
    All,
    Window(Option<i64>, Option<i64>),
    Chunks { size: i64, before: i64, after: i64 },
    Prefix(&'a [usize]),
}

impl Bounds<'_> {
    fn of(self, place: Place) -> Range<i64> {
        match self {
            Self::All => i64::MIN..i64::MAX,
            Self::Window(left, right) => {
                let first = left.map_or(i64::MIN, |left| place.position.saturating_sub(left));
                let end = right.map_or(i64::MAX, |right| place.position.saturating_add(right).saturating_add(1));
                first..end
            }
            Self::Chunks { size, before, after } => {
                let chunk = place.position.div_euclid(size);
                let start = |chunk: i64| chunk.saturating_mul(size);
                start(chunk.saturating_sub(before))..start(chunk.saturating_add(after).saturating_add(1))
            }
            Self::Prefix(lengths) => i64::MIN..own(lengths, place.batch).map_or(0, |&length| length as i64),
        }
    }
}

/// The entry of a batch entry, or the one for all.
fn own<T>(entries: &[T], batch: usize) -> Option<&T> {
    entries.get(if entries.len() == 1 { 0 } else { batch })
}

impl<'a> Node<'a> {
    /// Checks an expression against a shape.
    pub fn new(expr: &'a MaskExpr, shape: &MaskShape) -> Result<Self, AttentionError> {
        let all =
            |parts: &'a [MaskExpr]| parts.iter().map(|part| Self::new(part, shape)).collect::<Result<Vec<_>, _>>();
        let distance = |keys: usize| i64::try_from(keys).unwrap_or(i64::MAX);
        Ok(match expr {
            MaskExpr::All => Self::Between(Bounds::All),
            MaskExpr::Window { left, right } => Self::Between(Bounds::Window(left.map(distance), right.map(distance))),
            MaskExpr::Chunks { size, before, after } => Self::Between(Bounds::Chunks {
                size: distance(positive("chunks", *size)?),
                before: distance(*before),
                after: distance(*after),
            }),
            MaskExpr::Strided { step } => Self::Strided(distance(positive("strided", *step)?)),
            MaskExpr::Columns { step, width } => {
                let step = positive("columns", *step)?;
                if *width > step {
                    return Err(AttentionError::value(
                        "columns",
                        format!("a width of at most the step, {step}"),
                        width,
                    ));
                }
                Self::Columns { step, width: *width }
            }
            MaskExpr::Keys(keys) => Self::Keys(sorted("keys", keys)?),
            MaskExpr::Queries(positions) => Self::Queries(sorted("queries", positions)?),
            MaskExpr::RandomBlocks { block, count, seed } => {
                let size = positive("random_blocks", *block)?;
                Self::Blocks { size, seen: random_blocks(size, *count, *seed, shape)? }
            }
            MaskExpr::Documents(ids) => {
                one_or_each("documents", ids.len(), shape.batch)?;
                if let Some(found) = ids.iter().find(|ids| ids.len() != shape.key_len) {
                    let expected = format!("[{}] (ids of every key)", shape.key_len);
                    return Err(AttentionError::shape("documents", expected, &[found.len()]));
                }
                let least_most = ids.iter().map(|ids| ids.chunks(BLOCK).map(least_most).collect()).collect();
                Self::Documents { ids, least_most }
            }
            MaskExpr::Prefix(lengths) => {
                one_or_each("prefix", lengths.len(), shape.batch)?;
                Self::Between(Bounds::Prefix(lengths))
            }
            MaskExpr::PerHead(heads) => {
                if heads.len() != shape.heads {
                    let expected = format!("[{}] (an expression a head)", shape.heads);
                    return Err(AttentionError::shape("per_head", expected, &[heads.len()]));
                }
                Self::PerHead(all(heads)?)
            }
            MaskExpr::Function(function) => Self::Function(function),
            MaskExpr::And(parts) => Self::And(all(parts)?),
            MaskExpr::Or(parts) => Self::Or(all(parts)?),
            MaskExpr::Not(part) => Self::Not(Box::new(Self::new(part, shape)?)),
        })
    }

    /// Whether batch entries see different pairs at the same positions.
    pub fn needs_batch(&self) -> bool {
        match self {
            Self::Between(Bounds::Prefix(lengths)) => lengths.len() > 1,
            Self::Documents { ids, .. } => ids.len() > 1,
            Self::Function(_) => true,
            Self::PerHead(parts) | Self::And(parts) | Self::Or(parts) => parts.iter().any(Self::needs_batch),
            Self::Not(part) => part.needs_batch(),
            _ => false,
        }
    }

    /// Whether heads see different pairs.
    pub fn needs_heads(&self) -> bool {
        match self {
            Self::PerHead(_) | Self::Function(_) => true,
            Self::And(parts) | Self::Or(parts) => parts.iter().any(Self::needs_heads),
            Self::Not(part) => part.needs_heads(),
            _ => false,
        }
    }

    /// What is known of the rectangle of `rows` queries from `first` on and `keys`, without looking at its pairs.
    pub fn coverage(&self, first: Place, rows: usize, keys: Range<usize>) -> Coverage {
        let last = first.position.saturating_add(rows as i64 - 1);
        match self {
            Self::Between(bounds) => {
                // Both bounds grow with the position.
                let (low, high) = (bounds.of(first), bounds.of(Place { position: last, ..first }));
                let (start, end) = (keys.start as i64, keys.end as i64);
                known(end <= low.start || high.end <= start, high.start <= start && end <= low.end)
            }
            Self::Strided(step) => {
                let (least, most) =
                    (first.position.saturating_sub(keys.end as i64 - 1), last.saturating_sub(keys.start as i64));
                known(least.saturating_sub(1).div_euclid(*step) == most.div_euclid(*step), *step == 1)
            }
            Self::Columns { .. } | Self::Keys(_) => {
                let word = self.word(first, keys.clone());
                known(word == 0, word == low_bits(keys.len()))
            }
            Self::Queries(set) => {
                let inside = first.position.max(0) as usize..last.saturating_add(1).max(0) as usize;
                let found = set.partition_point(|at| *at < inside.end) - set.partition_point(|at| *at < inside.start);
                known(found == 0, found == rows)
            }
            Self::Blocks { size, .. } => {
                let same = first.position.div_euclid(*size as i64) == last.div_euclid(*size as i64);
                let word = self.word(first, keys.clone());
                known(same && word == 0, same && word == low_bits(keys.len()))
            }
            Self::Documents { ids, least_most } => documents(ids, least_most, first, last, &keys),
            Self::PerHead(parts) => {
                parts.get(first.head).map_or(Coverage::None, |part| part.coverage(first, rows, keys))
            }
            Self::Function(_) => Coverage::Partial,
            Self::And(parts) => {
                let mut parts = parts.iter().map(|part| part.coverage(first, rows, keys.clone()));
                parts
                    .try_fold(Coverage::Full, |sum, part| match (sum, part) {
                        (_, Coverage::None) => None,
                        (Coverage::Full, Coverage::Full) => Some(Coverage::Full),
                        _ => Some(Coverage::Partial),
                    })
                    .unwrap_or(Coverage::None)
            }
            Self::Or(parts) => {
                let mut parts = parts.iter().map(|part| part.coverage(first, rows, keys.clone()));
                parts
                    .try_fold(Coverage::None, |sum, part| match (sum, part) {
                        (_, Coverage::Full) => None,
                        (Coverage::None, Coverage::None) => Some(Coverage::None),
                        _ => Some(Coverage::Partial),
                    })
                    .unwrap_or(Coverage::Full)
            }
            Self::Not(part) => match part.coverage(first, rows, keys) {
                Coverage::None => Coverage::Full,
                Coverage::Full => Coverage::None,
                Coverage::Partial => Coverage::Partial,
            },
        }
    }

    /// Which of at most [`BLOCK`] keys a query sees, bit by bit.
    pub fn word(&self, at: Place, keys: Range<usize>) -> u64 {
        let position = at.position;
        let each = |sees: &dyn Fn(usize) -> bool| {
            keys.clone().enumerate().fold(0, |word, (bit, key)| word | (u64::from(sees(key)) << bit))
        };
        match self {
            Self::Between(bounds) => {
                let bounds = bounds.of(at);
                let inside = |key: i64| key.clamp(keys.start as i64, keys.end as i64) as usize - keys.start;
                let (first, end) = (inside(bounds.start), inside(bounds.end));
                low_bits(end) & !low_bits(first)
            }
            Self::Strided(step) => each(&|key| position.saturating_sub(key as i64) % step == 0),
            Self::Columns { step, width } => each(&|key| key % step >= step - width),
            Self::Keys(set) => {
                let from = set.partition_point(|key| *key < keys.start);
                set[from..]
                    .iter()
                    .take_while(|key| **key < keys.end)
                    .fold(0, |word, key| word | 1 << (key - keys.start))
            }
            Self::Queries(set) => match usize::try_from(position) {
                Ok(position) if set.binary_search(&position).is_ok() => low_bits(keys.len()),
                _ => 0,
            },
            Self::Blocks { size, seen } => {
                let block = usize::try_from(position).ok().and_then(|position| seen.get(position / size));
                each(&|key| block.is_some_and(|seen| seen.binary_search(&(key / size)).is_ok()))
            }
            Self::Documents { ids, .. } => {
                let ids = own(ids, at.batch).map_or(&[][..], Vec::as_slice);
                let id = usize::try_from(position).ok().and_then(|position| ids.get(position));
                each(&|key| id.is_some() && ids.get(key) == id)
            }
            Self::PerHead(parts) => parts.get(at.head).map_or(0, |part| part.word(at, keys)),
            Self::Function(PairFunction(seen)) => {
                let Place { batch, head, query, position } = at;
                each(&|key| seen(Pair { batch, head, query, position, key }))
            }
            Self::And(parts) => {
                // What one part hides, the others are not asked for.
                let start = low_bits(keys.len());
                parts.iter().fold(start, |word, part| if word == 0 { 0 } else { word & part.word(at, keys.clone()) })
            }
            Self::Or(parts) => parts.iter().fold(0, |word, part| word | part.word(at, keys.clone())),
            Self::Not(part) => !part.word(at, keys.clone()) & low_bits(keys.len()),
        }
    }
}

fn known(none: bool, full: bool) -> Coverage {
    match (none, full) {
        (true, _) => Coverage::None,
        (false, true) => Coverage::Full,
        (false, false) => Coverage::Partial,
    }
}

/// Judges by the least and the greatest id of the blocks that hold the queries and the keys.
fn documents(
    ids: &[Vec<u32>],
    least_most: &[Vec<(u32, u32)>],
    first: Place,
    last: i64,
    keys: &Range<usize>,
) -> Coverage {
    let (Some(ids), Some(blocks)) = (own(ids, first.batch), own(least_most, first.batch)) else {
        return Coverage::None;
    };
    let len = ids.len() as i64;
    if last < 0 || first.position >= len {
        return Coverage::None;
    }
    // Queries before the first key or past the last have no id, and see nothing.
    let whole = first.position >= 0 && last < len;
    let of = |range: Range<usize>| {
        let blocks = blocks.get(range.start / BLOCK..range.end.div_ceil(BLOCK)).unwrap_or_default();
        blocks.iter().copied().reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))).unwrap_or((0, u32::MAX))
    };
    let rows = of(first.position.max(0) as usize..(last.min(len - 1) + 1) as usize);
    let keys = of(keys.clone());
    known(rows.1 < keys.0 || keys.1 < rows.0, whole && rows.0 == rows.1 && keys == rows)
}

fn least_most(ids: &[u32]) -> (u32, u32) {
    ids.iter().fold((u32::MAX, 0), |(least, most), &id| (least.min(id), most.max(id)))
}

/// Of each block of positions, `count` distinct blocks of keys.
fn random_blocks(size: usize, count: usize, seed: u64, shape: &MaskShape) -> Result<Vec<Vec<usize>>, AttentionError> {
    let total = shape.key_len.div_ceil(size);
    let offsets = shape.offsets()?;
    let end = offsets.iter().map(|offset| offset.saturating_add(shape.query_len as i64)).max().unwrap_or(0).max(0);
    let rows = usize::try_from(end).unwrap_or(usize::MAX).div_ceil(size);
    let count = count.min(total);
    Ok((0..rows)
        .map(|row| {
            // Floyd's way to draw without repetition: the j-th draw among the first total − count + j + 1.
            let mut state = seed ^ (row as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let mut seen: Vec<usize> = Vec::with_capacity(count);
            for last in total - count..total {
                let drawn = (mix(&mut state) % (last as u64 + 1)) as usize;
                seen.push(if seen.contains(&drawn) { last } else { drawn });
            }
            seen.sort_unstable();
            seen
        })
        .collect())
}

/// The next number of SplitMix64 (Steele et al. 2014).
fn mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn positive(leaf: &'static str, size: usize) -> Result<usize, AttentionError> {
    match size {
        0 => Err(AttentionError::value(leaf, "at least 1", 0)),
        size => Ok(size),
    }
}

fn sorted<'a>(leaf: &'static str, items: &'a [usize]) -> Result<&'a [usize], AttentionError> {
    match items.windows(2).find(|pair| pair[0] >= pair[1]) {
        Some(pair) => Err(AttentionError::value(leaf, "sorted, each once", format!("{}, {}", pair[0], pair[1]))),
        None => Ok(items),
    }
}

fn one_or_each(leaf: &'static str, found: usize, batch: usize) -> Result<(), AttentionError> {
    match found == 1 || found == batch {
        true => Ok(()),
        false => Err(AttentionError::shape(leaf, format!("[1] or [{batch}]"), &[found])),
    }
}
