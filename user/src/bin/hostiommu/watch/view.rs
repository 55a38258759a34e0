// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The terminal view of `watch`.

use super::rates::{Container, Device};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table};
use ratatui::Frame;

/// The headings of the columns, and their widths.
const COLUMNS: [(&str, u16); 10] = [
    ("container", 15),
    ("bindings", 8),
    ("mapped", 12),
    ("waiting", 11),
    ("faults/s", 9),
    ("answers/s", 9),
    ("refused/s", 9),
    ("lost/s", 8),
    ("DMA faults/s", 12),
    ("flushes/s", 9),
];

/// What is shown.
pub struct View<'a> {
    /// The containers.
    pub containers: &'a [Container],
    /// The module's numbers of this moment.
    pub module: String,
    /// Why there is nothing to show, if so.
    pub trouble: Option<String>,
}

/// Bytes of pages of 4 KiB, as people write them.
fn bytes(pages: u64) -> String {
    match pages.saturating_mul(4) {
        kib if kib < 10 << 10 => format!("{kib} KiB"),
        kib if kib < 10 << 20 => format!("{} MiB", kib >> 10),
        kib => format!("{} GiB", kib >> 20),
    }
}

fn row(container: &Container) -> Row<'static> {
    let name = format!("{} {}", container.id, container.kind);
    let cells = [
        name,
        container.bindings.to_string(),
        bytes(container.mapped_pages),
        format!("{}/{}", container.waiting, container.depth),
    ];
    let rates = container.per_second.map(|rate| format!("{rate:.0}"));
    Row::new(cells.into_iter().chain(rates).map(Cell::from))
}

fn device_row(device: &Device) -> Row<'static> {
    let cells = [
        format!("  {}", device.name),
        device.bindings.to_string(),
        format!("RID {}", device.rid),
    ];
    Row::new(cells.map(Cell::from)).style(Style::new().add_modifier(Modifier::DIM))
}

impl View<'_> {
    /// Draws it.
    pub fn draw(&self, frame: &mut Frame<'_>) {
        let parts = [
            Constraint::Length(1),
            Constraint::Min(3),
            Constraint::Length(1),
        ];
        let [top, middle, bottom] = Layout::vertical(parts).areas(frame.area());
        frame.render_widget(Line::from(self.module.as_str()), top);
        let block = Block::bordered().title(" VFIO containers of vfio_iommu_ioasid ");
        match &self.trouble {
            Some(trouble) => {
                frame.render_widget(Paragraph::new(trouble.as_str()).block(block), middle);
            }
            None => {
                let rows = self.containers.iter().flat_map(|container| {
                    std::iter::once(row(container)).chain(container.devices.iter().map(device_row))
                });
                let header = Row::new(COLUMNS.map(|(name, _)| Cell::from(name)));
                let header = header.style(Style::new().add_modifier(Modifier::BOLD));
                let widths = COLUMNS.map(|(_, width)| Constraint::Length(width));
                let table = Table::new(rows, widths).header(header).block(block);
                frame.render_widget(table, middle);
            }
        }
        let help = "q: end   faults: page request groups   refused: answered INVALID by the host";
        frame.render_widget(Line::from(help), bottom);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::rates::COUNTERS;
    use ratatui::backend::TestBackend;
    use ratatui::Terminal;

    fn screen(view: &View<'_>, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a screen");
        terminal.draw(|frame| view.draw(frame)).expect("drawn");
        terminal.backend().to_string()
    }

    #[test]
    fn view_shows_containers_and_devices() {
        let containers = [Container {
            id: 3,
            kind: "ioasid".into(),
            bindings: 2,
            mapped_pages: 65536,
            waiting: 7,
            depth: 2048,
            per_second: [1234.4, 1200.0, 34.4, 0.0, 5.0, 99.0],
            total: [0; COUNTERS.len()],
            devices: vec![Device {
                name: "0000:00:04.0".into(),
                bindings: 2,
                rid: "blocked".into(),
            }],
        }];
        let view = View {
            containers: &containers,
            module: "1 container".into(),
            trouble: None,
        };
        let text = screen(&view, 120, 12);
        for wanted in [
            "3 ioasid",
            "256 MiB",
            "7/2048",
            "1234",
            "1200",
            "34",
            "99",
            "0000:00:04.0",
            "RID blocked",
            "faults/s",
            "q: end",
        ] {
            assert!(text.contains(wanted), "{wanted} in {text}");
        }
        // A small terminal shows less, and is no reason to end.
        for (width, height) in [(1, 1), (20, 3), (80, 2)] {
            screen(&view, width, height);
        }
        let view = View {
            trouble: Some("the module is not loaded".into()),
            ..view
        };
        assert!(screen(&view, 120, 12).contains("not loaded"));
    }

    #[test]
    fn sizes_are_written_for_people() {
        assert_eq!(bytes(0), "0 KiB");
        assert_eq!(bytes(2048), "8192 KiB");
        assert_eq!(bytes(65536), "256 MiB");
        assert_eq!(bytes(u64::MAX), "17592186044415 GiB");
    }
}
