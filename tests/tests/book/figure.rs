// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A picture of a figure that is drawn in text: boxes and lines of `+`, `-` and `|`, arrowheads of
//! `<`, `>`, `^` and `v`; everything else is text.

use std::fmt::Write;

/// Size of a character, in units of the picture.
const WIDTH: usize = 8;
const HEIGHT: usize = 16;

/// The characters of a figure.
struct Canvas(Vec<Vec<char>>);

impl Canvas {
    fn at(&self, row: Option<usize>, column: Option<usize>) -> char {
        let cell = |row: usize, column: usize| self.0.get(row)?.get(column).copied();
        match (row, column) {
            (Some(row), Some(column)) => cell(row, column).unwrap_or(' '),
            _ => ' ',
        }
    }

    /// The characters above, below, left and right of one.
    fn around(&self, row: usize, column: usize) -> [char; 4] {
        [
            self.at(row.checked_sub(1), Some(column)),
            self.at(Some(row + 1), Some(column)),
            self.at(Some(row), column.checked_sub(1)),
            self.at(Some(row), Some(column + 1)),
        ]
    }

    /// Whether a character is a part of the drawing, and not of a word.
    fn is_drawn(&self, row: usize, column: usize) -> bool {
        let [above, below, left, right] = self.around(row, column);
        let lies = |c: char| "-+<>^v".contains(c);
        let stands = |c: char| "|+".contains(c);
        let is_alone = |c: char| !c.is_alphanumeric();
        match self.at(Some(row), Some(column)) {
            '|' | '+' => true,
            '-' => lies(left) && is_alone(right) || lies(right) && is_alone(left),
            '<' => right == '-',
            '>' => left == '-',
            '^' => stands(below),
            'v' => stands(above) && is_alone(left) && is_alone(right),
            _ => false,
        }
    }
}

/// Ends of the lines that a character stands for, and of its arrowhead, in halves of its size.
fn strokes(canvas: &Canvas, row: usize, column: usize) -> (Vec<[usize; 4]>, Option<[usize; 6]>) {
    const UP: [usize; 4] = [1, 0, 1, 1];
    const DOWN: [usize; 4] = [1, 1, 1, 2];
    const LEFT: [usize; 4] = [0, 1, 1, 1];
    const RIGHT: [usize; 4] = [1, 1, 2, 1];
    let [above, below, left, right] = canvas.around(row, column);
    // Where an arrowhead is part of a box's border, that goes on behind it.
    let border = |mut lines: Vec<[usize; 4]>| {
        if left == '-' && right == '-' {
            lines.extend([LEFT, RIGHT]);
        }
        lines
    };
    match canvas.at(Some(row), Some(column)) {
        '|' => (vec![UP, DOWN], None),
        '-' => (vec![LEFT, RIGHT], None),
        '<' => (vec![RIGHT], Some([0, 1, 2, 0, 2, 2])),
        '>' => (vec![LEFT], Some([2, 1, 0, 0, 0, 2])),
        '^' => (border(vec![DOWN]), Some([1, 0, 0, 2, 2, 2])),
        'v' => (border(vec![UP]), Some([1, 2, 0, 0, 2, 0])),
        _ => {
            let joins = [
                (UP, "|+^v".contains(above)),
                (DOWN, "|+^v".contains(below)),
                (LEFT, "-+<".contains(left)),
                (RIGHT, "-+>".contains(right)),
            ];
            let lines = joins.into_iter().filter(|(_, is_there)| *is_there);
            (lines.map(|(line, _)| line).collect(), None)
        }
    }
}

/// The picture, as SVG.
pub fn picture(text: &str) -> String {
    let canvas = Canvas(text.lines().map(|line| line.chars().collect()).collect());
    let columns = canvas.0.iter().map(Vec::len).max().unwrap_or(0);
    let (width, height) = ((columns + 2) * WIDTH, (canvas.0.len() + 1) * HEIGHT);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"monospace\" font-size=\"13\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    let (mut lines, mut heads, mut words) = (String::new(), String::new(), String::new());
    for (row, line) in canvas.0.iter().enumerate() {
        let mut rest = String::new();
        for (column, &character) in line.iter().enumerate() {
            if !canvas.is_drawn(row, column) {
                rest.push(character);
                continue;
            }
            rest.push(' ');
            let x = |half: usize| (column + 1) * WIDTH + half * WIDTH / 2;
            let y = |half: usize| row * HEIGHT + HEIGHT / 2 + half * HEIGHT / 2;
            let (strokes, head) = strokes(&canvas, row, column);
            for [x1, y1, x2, y2] in strokes {
                write!(lines, "M{} {}L{} {}", x(x1), y(y1), x(x2), y(y2)).expect("a string");
            }
            if let Some([x1, y1, x2, y2, x3, y3]) = head {
                let points = [(x1, y1), (x2, y2), (x3, y3)].map(|(a, b)| (x(a), y(b)));
                let [(x1, y1), (x2, y2), (x3, y3)] = points;
                write!(heads, "M{x1} {y1}L{x2} {y2}L{x3} {y3}Z").expect("a string");
            }
        }
        // Each word has its place, whatever width the reader's font has.
        let mut column = 0;
        for word in rest.split(' ') {
            if !word.is_empty() {
                let escaped = word.replace('&', "&amp;").replace('<', "&lt;");
                let x = (column + 1) * WIDTH;
                let y = row * HEIGHT + HEIGHT / 2 + 12;
                let length = word.chars().count() * WIDTH;
                writeln!(
                    words,
                    "<text x=\"{x}\" y=\"{y}\" textLength=\"{length}\">{escaped}</text>"
                )
                .expect("a string");
            }
            column += word.chars().count() + 1;
        }
    }
    write!(
        svg,
        "<path d=\"{lines}\" stroke=\"black\" stroke-width=\"1.5\" fill=\"none\"/>\n\
         <path d=\"{heads}\" fill=\"black\"/>\n{words}</svg>\n"
    )
    .expect("a string");
    svg
}

#[test]
fn words_and_lines_are_told_apart() {
    let svg = picture("+--->| very stage-1 |\nv\nx");
    assert!(svg.contains(">very</text>"), "{svg}");
    assert!(svg.contains(">stage-1</text>"), "{svg}");
    assert!(!svg.contains(">v</text>"), "{svg}");
    assert!(svg.contains(">x</text>"), "{svg}");
}
