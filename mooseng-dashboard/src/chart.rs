//! Small charts as SVG. Pure. Only numbers get into them, and colours come from the style sheet.

use std::fmt::Write as _;

/// Size of the drawing, in its own units: it is stretched to its place.
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 120.0;

/// A line of a chart: the class that gives it its colour, and its points in order of time, 0.0 (left) to
/// 1.0 (right). Where a value is not known the line is broken.
pub(crate) struct Line {
    pub class: &'static str,
    pub points: Vec<(f64, Option<f64>)>,
}

/// The next round number, for the top of a scale: 1, 2 or 5 times a power of ten.
pub(crate) fn round_up(max: f64) -> f64 {
    if !max.is_finite() || max <= 1.0 {
        return 1.0;
    }
    let power = 10f64.powf(max.log10().floor());
    let up = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|top| *top >= max);
    up.unwrap_or(10.0 * power)
}

/// The same for bytes, whose units are powers of 1024.
pub(crate) fn round_up_bytes(max: f64) -> f64 {
    if !max.is_finite() || max <= 1.0 {
        return 1.0;
    }
    let unit = 1024f64.powf(max.log(1024.0).floor());
    match round_up(max / unit) {
        top if top >= 1000.0 => 1024.0 * unit,
        top => top * unit,
    }
}

/// The largest value of all lines.
pub(crate) fn max_of(lines: &[Line]) -> f64 {
    lines.iter().flat_map(|l| &l.points).filter_map(|(_, v)| *v).filter(|v| v.is_finite()).fold(0.0, f64::max)
}

/// Lines over each other, from 0 to `top`. `label` tells those who do not see it what it shows, and is made of
/// fixed words and numbers by the caller.
pub(crate) fn lines(lines: &[Line], top: f64, label: &str) -> String {
    let mut svg = format!(
        "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{}\">",
        escaped(label)
    );
    for part in 1..4 {
        let y = HEIGHT * f64::from(part) / 4.0;
        let _ = write!(svg, "<line class=\"rule\" x1=\"0\" x2=\"{WIDTH}\" y1=\"{y}\" y2=\"{y}\"/>");
    }
    for line in lines {
        let is_known = |(x, v): &(f64, Option<f64>)| x.is_finite() && v.is_some_and(f64::is_finite);
        for run in line.points.split(|p| !is_known(p)).filter(|run| !run.is_empty()) {
            let mut points = String::new();
            for (x, v) in run {
                let x = x.clamp(0.0, 1.0) * WIDTH;
                let y = HEIGHT - (v.unwrap_or_default() / top).clamp(0.0, 1.0) * HEIGHT;
                let _ = write!(points, "{x:.1},{y:.1} ");
            }
            let _ = write!(svg, "<polyline class=\"line {}\" points=\"{}\"/>", line.class, points.trim_end());
        }
    }
    svg += "</svg>";
    svg
}

/// A bar that is filled by so many hundredths.
pub(crate) fn bar(part: u64, total: u64, class: &'static str) -> String {
    let hundredths = match total {
        0 => 0,
        total => (u128::from(part) * 100 / u128::from(total)).min(100),
    };
    format!(
        "<svg class=\"bar\" viewBox=\"0 0 100 8\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{hundredths} of 100\">\
         <rect class=\"all\" width=\"100\" height=\"8\"/><rect class=\"{class}\" width=\"{hundredths}\" height=\"8\"/></svg>"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_end_at_round_numbers() {
        for (max, top) in
            [(0.0, 1.0), (1.0, 1.0), (1.1, 2.0), (3.0, 5.0), (5.0, 5.0), (7.0, 10.0), (1200.0, 2000.0)]
        {
            assert_eq!(round_up(max), top, "{max}");
        }
        assert_eq!(round_up(f64::NAN), 1.0);
        for (max, top) in [
            (0.5, 1.0),
            (700.0, 1024.0),
            (3000.0, 5.0 * 1024.0),
            (4.5e6, 5.0 * 1048576.0),
            (6e8, 1073741824.0),
        ] {
            assert_eq!(round_up_bytes(max), top, "{max}");
        }
    }

    #[test]
    fn points_stay_inside_and_words_are_escaped() {
        let points = [(0.0, 0.0), (0.5, 5.0), (1.0, 99.0), (2.0, f64::NAN)];
        let line = Line { class: "a", points: points.map(|(x, v)| (x, Some(v))).into() };
        assert_eq!(max_of(std::slice::from_ref(&line)), 99.0);
        let svg = lines(&[line], 10.0, "<\"&\">");
        assert!(svg.contains("points=\"0.0,120.0 300.0,60.0 600.0,0.0\""), "{svg}");
        assert!(svg.contains("aria-label=\"&lt;&quot;&amp;&quot;&gt;\""), "{svg}");
        assert!(bar(1, 3, "used").contains("width=\"33\""));
        assert!(
            bar(5, 0, "used").contains("width=\"0\"")
                && bar(9, 3, "used").contains("width=\"100\" height=\"8\"/></svg>")
        );
    }

    #[test]
    fn a_line_is_broken_where_nothing_is_known() {
        let points = vec![(0.0, Some(1.0)), (0.2, Some(1.0)), (0.4, None), (0.6, None), (0.8, Some(0.0))];
        let svg = lines(&[Line { class: "a", points }], 1.0, "x");
        let runs: Vec<_> = svg.split("points=\"").skip(1).map(|p| p.split('"').next().unwrap()).collect();
        assert_eq!(runs, ["0.0,0.0 120.0,0.0", "480.0,120.0"]);
    }
}
