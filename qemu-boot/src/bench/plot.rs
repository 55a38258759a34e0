// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The table as a picture: a bar a row, as long as its ratio, with a mark at the goal.

use super::table::Line;
use anyhow::{anyhow, Result};
use plotters::prelude::*;
use std::path::Path;

const WIDTH: u32 = 1000;
const ROW: u32 = 26;
const MARGIN: u32 = 20;

const MET: RGBColor = RGBColor(46, 125, 50);
const MISSED: RGBColor = RGBColor(198, 40, 40);

/// Writes the picture.
///
/// # Errors
///
/// If the file cannot be written.
pub fn write(lines: &[Line], file: &Path) -> Result<()> {
    draw(lines, file).map_err(|error| anyhow!("cannot draw {}: {error}", file.display()))
}

fn draw(lines: &[Line], file: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let rows = u32::try_from(lines.len())?;
    let height = rows.saturating_mul(ROW).saturating_add(4 * MARGIN);
    let area = SVGBackend::new(file, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let text = ("sans-serif", 13).into_font();
    // Bars begin in the middle; a ratio of 2 reaches the edge.
    let (left, scale) = (480.0, 250.0);
    let x = |ratio: f64| (left + ratio.min(2.0) * scale) as i32;
    area.draw(&Text::new(
        "instructions beside iommufd's or type1's (the better one), and between sizes; the mark is the goal",
        (MARGIN as i32, MARGIN as i32 / 2),
        text.clone(),
    ))?;
    for (index, line) in lines.iter().enumerate() {
        let top = i32::try_from(2 * MARGIN)? + i32::try_from(index)? * ROW as i32;
        let bottom = top + ROW as i32 - 8;
        let colour = if line.met { MET } else { MISSED };
        area.draw(&Text::new(
            line.work.clone(),
            (MARGIN as i32, top + 3),
            text.clone(),
        ))?;
        let bar = [(x(0.0), top), (x(line.ratio), bottom)];
        area.draw(&Rectangle::new(bar, colour.filled()))?;
        let mark = vec![(x(line.limit), top - 3), (x(line.limit), bottom + 3)];
        area.draw(&PathElement::new(mark, BLACK.stroke_width(2)))?;
        let value = format!("{:.2}", line.ratio);
        area.draw(&Text::new(
            value,
            (x(line.ratio.max(line.limit)) + 6, top + 3),
            text.clone(),
        ))?;
    }
    area.present()?;
    Ok(())
}
