//! Small tables for people.

/// Names and values, one pair a line.
pub(super) fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines = pairs
        .iter()
        .map(|(name, value)| format!("{name:width$}  {value}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// A column: its heading, and whether it holds numbers.
pub(super) struct Column(pub(super) &'static str, pub(super) Side);

/// Where the cells of a column stand.
#[derive(Clone, Copy)]
pub(super) enum Side {
    Left,
    Right,
}

/// Rows under headings. Columns are as wide as their widest cell.
pub(super) fn rows<const N: usize>(columns: [Column; N], rows: &[[String; N]]) -> String {
    let cells = |row: &[String; N]| row.each_ref().map(|cell| cell.chars().count());
    let mut widths = columns.each_ref().map(|Column(heading, _)| heading.len());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(cells(row)) {
            *width = (*width).max(cell);
        }
    }
    let line = |row: &[String; N]| {
        let columns = columns.iter().zip(widths).zip(row);
        let cells = columns.map(|((Column(_, side), width), cell)| match side {
            Side::Left => format!("{cell:<width$}"),
            Side::Right => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let heading = columns
        .each_ref()
        .map(|Column(heading, _)| (*heading).to_owned());
    let lines = std::iter::once(&heading).chain(rows).map(line);
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_stand_under_their_headings() {
        let text = rows(
            [
                Column("row", Side::Right),
                Column("zone", Side::Left),
                Column("up", Side::Right),
            ],
            &[
                ["1".to_owned(), "home".to_owned(), "12345".to_owned()],
                ["200".to_owned(), "eu".to_owned(), "7".to_owned()],
            ],
        );
        insta::assert_snapshot!(text, @r"
        row  zone     up
          1  home  12345
        200  eu        7
        ");
        insta::assert_snapshot!(pairs(&[("a", "1".to_owned()), ("long", "2".to_owned())]), @r"
        a     1
        long  2
        ");
    }
}
