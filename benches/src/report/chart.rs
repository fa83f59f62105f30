//! Charts as SVG: bars or lines over categories.

use super::Spread;
use plotters::{
    coord::Shift,
    prelude::{
        BLACK, Circle, Color as _, DrawingArea, IntoDrawingArea as _, IntoFont as _, PathElement, RGBColor, Rectangle,
        SVGBackend, Text, TextStyle, WHITE,
    },
    style::text_anchor::{HPos, Pos, VPos},
};
use std::error::Error;

/// A chart, to be told apart from others by its file's name.
#[derive(Clone, Debug)]
pub struct Chart {
    /// The file's name, without `.svg`.
    pub name: &'static str,
    /// The quantity that it shows.
    pub title: String,
    /// The meaning of the categories.
    pub x: &'static str,
    /// The measured quantity, and its unit.
    pub y: &'static str,
    /// The meaning of the series' names.
    pub legend: &'static str,
    /// From left to right.
    pub categories: Vec<String>,
    /// Each with a colour.
    pub series: Vec<Series>,
    /// Bars or lines.
    pub kind: Kind,
    /// Whether the y axis has a decade after the other, instead of starting at zero.
    pub log: bool,
}

/// Values that belong together.
#[derive(Clone, Debug)]
pub struct Series {
    /// The property that its values share.
    pub name: String,
    /// One for each category. `None`: not measured, or nothing came of it.
    pub values: Vec<Option<Spread>>,
}

/// How values are drawn.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Side by side.
    Bars,
    /// Connected.
    Lines,
}

/// Where values are on the y axis.
#[derive(Clone, Copy, Debug)]
struct Scale {
    low: f64,
    high: f64,
    ticks: Ticks,
}

#[derive(Clone, Copy, Debug)]
enum Ticks {
    /// Each ten times the one below.
    Decades,
    /// From zero, so far apart.
    Every(f64),
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn Error + Send + Sync>>;

const WIDTH: i32 = 820;
const HEIGHT: i32 = 446;
const LEFT: i32 = 70;
const RIGHT: i32 = WIDTH - 20;
const TOP: i32 = 98;
const BOTTOM: i32 = HEIGHT - 76;
const GREY: RGBColor = RGBColor(110, 110, 110);
const GRID: RGBColor = RGBColor(225, 225, 225);
/// Distinct also for colour-blind readers (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
];

// === impl Chart ===

impl Chart {
    /// Whether there is anything to see.
    pub fn is_empty(&self) -> bool {
        self.values().next().is_none()
    }

    /// The picture. Thin lines reach from the least to the most that was measured.
    ///
    /// # Errors
    ///
    /// When it cannot be drawn.
    pub fn svg(&self) -> Result<String, Box<dyn Error + Send + Sync>> {
        let mut svg = String::new();
        let area = SVGBackend::with_string(&mut svg, (WIDTH as u32, HEIGHT as u32)).into_drawing_area();
        area.fill(&WHITE)?;
        let scale = Scale::of(self.values(), self.log);
        self.draw_axes(&area, scale)?;
        self.draw_legend(&area)?;
        for (n, series) in self.series.iter().enumerate() {
            match self.kind {
                Kind::Bars => self.draw_bars(&area, scale, n, series)?,
                Kind::Lines => self.draw_line(&area, scale, n, series)?,
            }
        }
        area.present()?;
        drop(area);
        Ok(svg)
    }

    fn values(&self) -> impl Iterator<Item = &Spread> {
        self.series.iter().flat_map(|series| &series.values).flatten()
    }

    fn draw_axes(&self, area: &Area<'_>, scale: Scale) -> Drawn {
        text(area, &self.title, LEFT - 50, 12, 19, HPos::Left, BLACK)?;
        text(area, self.y, LEFT - 50, TOP - 32, 13, HPos::Left, GREY)?;
        text(area, "medians; thin lines: from the least to the most", RIGHT, HEIGHT - 22, 11, HPos::Right, GREY)?;
        text(area, self.x, (LEFT + RIGHT) / 2, BOTTOM + 32, 13, HPos::Center, GREY)?;
        for tick in scale.ticks() {
            let y = scale.pixel(tick);
            area.draw(&PathElement::new([(LEFT, y), (RIGHT, y)], GRID))?;
            text(area, &short(tick), LEFT - 8, y - 7, 12, HPos::Right, GREY)?;
        }
        for (n, category) in self.categories.iter().enumerate() {
            text(area, category, self.center(n), BOTTOM + 8, 13, HPos::Center, BLACK)?;
        }
        area.draw(&PathElement::new([(LEFT, BOTTOM), (RIGHT, BOTTOM)], GREY))?;
        Ok(())
    }

    fn draw_legend(&self, area: &Area<'_>) -> Drawn {
        let mut x = LEFT - 50;
        if !self.legend.is_empty() {
            text(area, self.legend, x, 41, 13, HPos::Left, GREY)?;
            x += 16 + 6 * self.legend.len() as i32;
        }
        for (n, series) in self.series.iter().enumerate() {
            area.draw(&Rectangle::new([(x, 42), (x + 12, 54)], colour(n).filled()))?;
            text(area, &series.name, x + 18, 41, 13, HPos::Left, BLACK)?;
            x += 36 + 7 * series.name.len() as i32;
        }
        Ok(())
    }

    fn draw_bars(&self, area: &Area<'_>, scale: Scale, n: usize, series: &Series) -> Drawn {
        let width = self.slot() * 8 / 10 / self.series.len() as i32;
        for (category, value) in series.values.iter().enumerate() {
            let x = self.center(category) - self.slot() * 4 / 10 + width * n as i32;
            let Some(value) = value else {
                text(area, "-", x + width / 2, BOTTOM - 14, 12, HPos::Center, GREY)?;
                continue;
            };
            let y = scale.pixel(value.median).min(BOTTOM - 1);
            area.draw(&Rectangle::new([(x + 1, y), (x + width - 1, BOTTOM)], colour(n).filled()))?;
            draw_spread(area, scale, x + width / 2, value, BLACK)?;
            // Wide enough for its figure; or so low that nothing else is to be seen.
            let wide = width >= 24;
            if wide || y >= BOTTOM - 2 {
                let top = scale.pixel(value.max).min(y);
                let figure = if wide { short(value.median) } else { format!("{:.0}", value.median) };
                text(area, &figure, x + width / 2, top - 14, 11, HPos::Center, BLACK)?;
            }
        }
        Ok(())
    }

    fn draw_line(&self, area: &Area<'_>, scale: Scale, n: usize, series: &Series) -> Drawn {
        let mut points = Vec::new();
        for (category, value) in series.values.iter().enumerate() {
            let Some(value) = value else { continue };
            // Beside one another, so that spreads do not cover each other.
            let beside = (2 * n as i32 + 1 - self.series.len() as i32) * 4;
            let point = (self.center(category) + beside, scale.pixel(value.median));
            area.draw(&Circle::new(point, 4, colour(n).filled()))?;
            draw_spread(area, scale, point.0, value, colour(n))?;
            points.push(point);
        }
        area.draw(&PathElement::new(points, colour(n).stroke_width(2)))?;
        Ok(())
    }

    fn slot(&self) -> i32 {
        (RIGHT - LEFT) / self.categories.len().max(1) as i32
    }

    fn center(&self, category: usize) -> i32 {
        LEFT + self.slot() * category as i32 + self.slot() / 2
    }
}

fn draw_spread(area: &Area<'_>, scale: Scale, x: i32, value: &Spread, colour: RGBColor) -> Drawn {
    let (low, high) = (scale.pixel(value.min), scale.pixel(value.max));
    if low - high > 3 {
        area.draw(&PathElement::new([(x, low), (x, high)], colour.mix(0.7)))?;
    }
    Ok(())
}

fn text(area: &Area<'_>, what: &str, x: i32, y: i32, size: i32, align: HPos, colour: RGBColor) -> Drawn {
    let style = TextStyle::from(("sans-serif", size).into_font()).pos(Pos::new(align, VPos::Top)).color(&colour);
    area.draw(&Text::new(what.to_owned(), (x, y), style))?;
    Ok(())
}

fn colour(n: usize) -> RGBColor {
    COLOURS[n % COLOURS.len()]
}

/// A number with at most three digits that mean something.
pub(super) fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 1e6 => format!("{:.*}M", usize::from(value % 1e6 != 0.0 && size < 1e7), value / 1e6),
        size if size >= 1e4 => format!("{:.0}k", value / 1e3),
        size if size >= 10.0 || value.fract() == 0.0 => format!("{value:.0}"),
        size if size >= 1.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

// === impl Scale ===

impl Scale {
    fn of<'a>(values: impl Iterator<Item = &'a Spread>, log: bool) -> Self {
        let mut low = f64::MAX;
        let mut high = f64::MIN_POSITIVE;
        for value in values {
            // Zero has no place on an axis of decades: it is drawn at its bottom.
            low = [value.min, value.median].into_iter().filter(|value| *value > 0.0).fold(low, f64::min);
            high = high.max(value.max);
        }
        if log {
            let low = 10f64.powf(low.min(high).log10().floor());
            return Self { low, high: 10f64.powf(high.log10().ceil()).max(low * 10.0), ticks: Ticks::Decades };
        }
        let step = nice_step(high);
        Self { low: 0.0, high: (high * 1.05 / step).ceil() * step, ticks: Ticks::Every(step) }
    }

    fn pixel(self, value: f64) -> i32 {
        let Self { low, high, ticks } = self;
        let share = match ticks {
            Ticks::Decades => (value.max(low) / low).log10() / (high / low).log10(),
            Ticks::Every(_) => value / high,
        };
        BOTTOM - (share * f64::from(BOTTOM - TOP)).round() as i32
    }

    fn ticks(self) -> Vec<f64> {
        match self.ticks {
            Ticks::Decades => {
                let decades = (self.high / self.low).log10().round() as i32;
                (0..=decades).map(|decade| self.low * 10f64.powi(decade)).collect()
            }
            Ticks::Every(step) => (0..=(self.high / step).round() as u32).map(|n| step * f64::from(n)).collect(),
        }
    }
}

/// A fifth or so of `high`, and 1, 2, 2.5 or 5 times a power of ten.
fn nice_step(high: f64) -> f64 {
    let power = 10f64.powf((high / 5.0).log10().floor());
    [1.0, 2.0, 2.5, 5.0, 10.0].map(|times| times * power).into_iter().find(|step| *step >= high / 5.0).unwrap_or(high)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(kind: Kind, log: bool) -> Chart {
        let value = |median| Some(Spread { min: median * 0.9, median, max: median * 1.2 });
        Chart {
            name: "test",
            title: "A title".to_owned(),
            x: "categories",
            y: "Mbit/s",
            legend: "colours",
            categories: ["one", "two", "three"].map(str::to_owned).to_vec(),
            series: vec![
                Series { name: "first".to_owned(), values: vec![value(3.0), value(40.0), None] },
                Series { name: "second".to_owned(), values: vec![value(0.0), value(900.0), value(20.0)] },
            ],
            kind,
            log,
        }
    }

    #[test]
    fn names_and_figures_are_in_the_picture() {
        for (kind, log) in [(Kind::Bars, true), (Kind::Bars, false), (Kind::Lines, true), (Kind::Lines, false)] {
            let svg = chart(kind, log).svg().unwrap();
            for word in ["<svg", "A title", "Mbit/s", "colours", "three", "second", "1000"] {
                assert!(svg.contains(word), "{word} is not in {svg}");
            }
        }
    }

    #[test]
    fn scales_hold_all_values() {
        for log in [true, false] {
            let chart = chart(Kind::Bars, log);
            let scale = Scale::of(chart.values(), log);
            for value in chart.values().map(|value| value.max).chain(scale.ticks()) {
                assert!((TOP..=BOTTOM).contains(&scale.pixel(value)), "{value} on {scale:?}");
            }
        }
    }

    #[test]
    fn highest_tick_is_the_top() {
        for high in [0.3, 7.3, 999.0, 1000.0, 1001.0, 1080.0] {
            let scale = Scale::of([Spread { min: 0.0, median: high, max: high }].iter(), false);
            let top = *scale.ticks().last().unwrap();
            assert!(top >= high && scale.pixel(top) == TOP, "{top} for {high}");
        }
    }

    #[test]
    fn numbers_are_short() {
        for (value, expected) in [
            (0.0, "0"),
            (0.123, "0.12"),
            (1.25, "1.2"),
            (25.6, "26"),
            (1000.0, "1000"),
            (23_456.0, "23k"),
            (1.5e6, "1.5M"),
        ] {
            assert_eq!(short(value), expected);
        }
    }
}
