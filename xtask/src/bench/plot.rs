//! The ratios as bars: a plain SVG in colours that can be read on light and on dark.

use std::fmt::Write as _;

use super::Kept;
use super::report::Row;

const LEFT: f64 = 470.0;
/// The length of a bar that is 1.
const ONE: f64 = 260.0;
/// Bars that are longer are cut.
const MOST: f64 = 1.5;
const BAR: f64 = 9.0;
const GAP: f64 = 12.0;
const TOP: f64 = 40.0;

const fn colour(kept: Kept) -> &'static str {
    match kept {
        Kept::Memory => "#3b82c4",
        Kept::Sqlite => "#d97f30",
        Kept::Postgres => "#4a9d5b",
    }
}

/// A picture of the rows.
pub(crate) fn svg(rows: &[Row]) -> String {
    let mut bars = String::new();
    let mut y = TOP;
    for row in rows {
        let what = escaped(&format!("{} {}", row.what.replace('`', ""), row.target));
        // Writing to a String cannot fail.
        let _ = writeln!(
            bars,
            r#"<text x="{:.0}" y="{:.1}" text-anchor="end">{what}</text>"#,
            LEFT - 8.0,
            y + BAR
        );
        for (kept, spread, _) in &row.values {
            let length = |value: f64| value.clamp(0.0, MOST) * ONE;
            let middle = y + BAR / 2.0;
            let _ = writeln!(
                bars,
                r#"<rect x="{LEFT}" y="{y:.1}" width="{:.1}" height="{BAR}" fill="{}"/><path d="M{:.1} {middle:.1}H{:.1}" stroke="gray"/><text x="{:.1}" y="{:.1}">{:.2}</text>"#,
                length(spread.median),
                colour(*kept),
                LEFT + length(spread.min),
                LEFT + length(spread.max),
                LEFT + length(spread.max) + 4.0,
                y + BAR,
                spread.median,
            );
            y += BAR + 1.0;
        }
        y += GAP;
    }
    let (width, height) = (LEFT + MOST * ONE + 60.0, y);
    let mut legend = String::new();
    for (place, kept) in (0_u8..).zip(Kept::ALL) {
        let x = LEFT + f64::from(place) * 90.0;
        let _ = writeln!(
            legend,
            r#"<rect x="{x}" y="10" width="{BAR}" height="{BAR}" fill="{}"/><text x="{}" y="19">{}</text>"#,
            colour(kept),
            x + 14.0,
            kept.name()
        );
    }
    let one = LEFT + ONE;
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0} {height:.0}" width="{width:.0}" height="{height:.0}" font-family="sans-serif" font-size="11" fill="gray">
{legend}<path d="M{one} {:.0}V{:.0}" stroke="gray" stroke-dasharray="3 3"/>
{bars}</svg>
"#,
        TOP - 10.0,
        y - GAP,
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Spread;

    #[test]
    fn every_row_has_its_bars() {
        let spread = Spread {
            min: 0.5,
            median: 0.75,
            max: 9.0,
        };
        let row = Row {
            what: "`this` & that",
            target: "≥ 0.90".to_owned(),
            values: vec![(Kept::Memory, spread, None), (Kept::Sqlite, spread, None)],
        };
        let picture = svg(&[row]);
        assert_eq!(picture.matches("<rect").count(), 2 + 3);
        assert!(picture.contains("this &amp; that ≥ 0.90"), "{picture}");
        assert!(picture.contains(r#"width="195.0""#), "{picture}");
    }
}
