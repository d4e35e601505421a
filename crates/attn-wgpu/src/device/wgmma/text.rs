//! The instructions of groups of planes, spelled out: CubeCL has no name for them, and hands them to the compiler as they are.
//!
//! A matrix in shared memory is a 64-bit word: its address, the bytes from one column of atoms to the next and from one atom to the
//! one below, all by 16, and how atoms are permuted. An atom is 8 rows of 128 bytes; vectors of 16 bytes lie in a row at their place
//! exclusive-or the row's number. Operands are numbered: first those that an instruction makes, then those that it takes.

use std::fmt::Write;

use super::Config;

/// Rows of an atom times the bytes of one, by 16; and that atoms are permuted so.
const UPPER: u32 = 0x4000_0040;
/// Vectors of an atom's row.
pub const ATOM: usize = 8;
/// Dimensions that an instruction multiplies.
const DEEP: usize = 16;

/// Makes sums of products with keys, of all dimensions: `%0…` the sums; then the words of the queries and the keys, lower halves.
pub fn scores(config: &Config) -> String {
    let sums = config.block / 2;
    let mut text = begin("q, k");
    text += "setp.ne.b32 p, 0, 0;\nwgmma.fence.sync.aligned;\n";
    for step in 0..config.head_dim / DEEP {
        // Two vectors further in a row, or the next column of atoms.
        let (atom, within) = (step / 4, step % 4 * 2);
        word(&mut text, "q", sums, atom * super::ROWS * ATOM + within);
        word(&mut text, "k", sums + 1, atom * config.block * ATOM + within);
        let add = if step == 0 { "p" } else { "1" };
        instruction(&mut text, config, config.block, &[&registers(0, sums), "q", "k", add, "1", "1", "0", "0"]);
    }
    text + "wgmma.commit_group.sync.aligned;\n}"
}

/// Adds products of weights with values: `%0…` the new sums; then the old ones, the weights, and the values' word.
pub fn outputs(config: &Config) -> String {
    let (sums, weights) = (config.wide() / 2, config.block / 4 * config.terms);
    let mut text = begin("v");
    text += &moved(sums);
    text += "wgmma.fence.sync.aligned;\n";
    for step in 0..config.block / DEEP {
        word(&mut text, "v", 2 * sums + weights, step * DEEP * ATOM);
        for term in 0..config.terms {
            let of_term = registers(2 * sums + (step * config.terms + term) * 4, 4);
            instruction(&mut text, config, config.wide(), &[&registers(0, sums), &of_term, "v", "1", "1", "1", "1"]);
        }
    }
    text + "wgmma.commit_group.sync.aligned;\n}"
}

/// Waits until at most `left` groups of instructions are under way: `%0…` the sums that are there then.
pub fn settled(sums: usize, left: usize) -> String {
    format!("wgmma.wait_group.sync.aligned {left};\n{}", moved(sums))
}

fn begin(words: &str) -> String {
    format!("{{\n.reg .pred p;\n.reg .b32 l;\n.reg .b64 {words};\n")
}

/// One word, from its lower half in operand `operand` and a distance in vectors.
fn word(text: &mut String, name: &str, operand: usize, distance: usize) {
    writeln!(text, "add.u32 l, %{operand}, {distance};\nmov.b64 {name}, {{l, {UPPER}}};").expect("strings take all");
}

fn instruction(text: &mut String, config: &Config, columns: usize, operands: &[&str]) {
    let of = config.narrow();
    let operands = operands.join(", ");
    writeln!(text, "wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.{of}.{of} {operands};")
        .expect("strings take all");
}

fn registers(first: usize, count: usize) -> String {
    let names: Vec<String> = (first..first + count).map(|at| format!("%{at}")).collect();
    format!("{{{}}}", names.join(", "))
}

/// What was made before, as if made here.
fn moved(count: usize) -> String {
    (0..count).map(|at| format!("mov.f32 %{at}, %{};\n", count + at)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::score::Options;

    fn config(head_dim: usize, columns: usize) -> Config {
        let options = Options::default();
        let (block, terms, cut, lift) = (128, 2, 0xffff_0000, 1);
        Config { head_dim, columns, groups: 2, block, terms, cut, lift, brain: true, plain: true, options }
    }

    /// The operands that a text names, in order, each once.
    fn operands(text: &str) -> Vec<usize> {
        let number =
            |rest: &str| rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok());
        let mut named: Vec<usize> = text.split('%').skip(1).filter_map(number).collect();
        named.sort_unstable();
        named.dedup();
        named
    }

    #[test]
    fn every_operand_is_named_and_no_other() {
        for (head_dim, columns) in [(16, 16), (48, 80), (128, 128)] {
            let config = config(head_dim, columns);
            // Sums of 128 keys, and two words.
            assert_eq!(operands(&scores(&config)), (0..64 + 2).collect::<Vec<_>>());
            // New sums, old ones, two terms of 128 keys' weights, a word.
            assert_eq!(operands(&outputs(&config)), (0..config.wide() + 64 + 1).collect::<Vec<_>>());
        }
        assert_eq!(operands(&settled(24, 1)), (0..48).collect::<Vec<_>>());
    }

    #[test]
    fn matrices_are_as_far_apart_as_they_lie() {
        let config = config(80, 80);
        let scores = scores(&config);
        // Five steps of 16 dimensions: four in the first column of atoms, 64 rows of queries and 128 of keys of 8 vectors.
        assert_eq!(scores.matches("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16").count(), 5);
        for distance in ["%64, 0", "%64, 6", "%64, 512", "%65, 6", "%65, 1024"] {
            assert!(scores.contains(&format!("add.u32 l, {distance};")), "{distance}");
        }
        // The first adds to nothing, the others to what is there.
        assert_eq!(scores.matches(", p, 1, 1, 0, 0;").count(), 1);
        let outputs = outputs(&config);
        // Eighty columns are a power of two more: 128.
        assert_eq!(outputs.matches("m64n128k16.f32.bf16.bf16").count(), 8 * 2);
        assert!(outputs.contains("add.u32 l, %192, 896;"), "sixteen keys of 8 vectors a step");
    }
}
