//! Tables in plain text: columns as wide as their widest cell, two spaces between, no trailing blanks.

/// A table with its header; each cell is one line.
pub fn text<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut lines = vec![header.map(String::from)];
    lines.extend(rows);
    let widths: [usize; N] =
        std::array::from_fn(|column| lines.iter().map(|line| width(&line[column])).max().unwrap_or(0));
    lines.insert(1, widths.map(|width| "-".repeat(width)));
    lines.iter().map(|line| row(line, &widths) + "\n").collect()
}

fn row<const N: usize>(cells: &[String; N], widths: &[usize; N]) -> String {
    let padded = cells.iter().zip(widths).map(|(cell, wanted)| format!("{cell}{}", " ".repeat(wanted - width(cell))));
    padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
}

fn width(cell: &str) -> usize {
    cell.chars().count()
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_line_up() {
        let rows =
            [["a".to_owned(), "long".to_owned(), String::new()], ["µµµ".to_owned(), "x".to_owned(), "end".to_owned()]];
        let expected = "n    two   e\n---  ----  ---\na    long\nµµµ  x     end\n";
        assert_eq!(super::text(["n", "two", "e"], rows), expected);
    }
}
