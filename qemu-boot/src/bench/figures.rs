// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the guest measured: the lines that it prints, and the middle of each row's figures.

use std::collections::BTreeMap;

/// A way to the IOMMU, as the guest names it.
pub const OURS: &str = "ours";
/// vfio_iommu_type1.
pub const TYPE1: &str = "type1";
/// iommufd.
pub const IOMMUFD: &str = "iommufd";

/// Figures of a boot, by row and way, in nanoseconds of the guest's clock for an operation.
#[derive(Debug, Default)]
pub struct Figures(BTreeMap<(String, String), Vec<f64>>);

/// The value of `name=value` among words.
pub fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split(' ')
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

impl Figures {
    /// Takes in a line `figure row=… by=… ns=…`; others are passed over.
    pub fn line(&mut self, line: &str) {
        if !line.starts_with("figure ") {
            return;
        }
        let number = field(line, "ns").and_then(|text| text.parse().ok());
        if let (Some(row), Some(by), Some(number)) = (field(line, "row"), field(line, "by"), number)
        {
            let key = (row.to_owned(), by.to_owned());
            self.0.entry(key).or_default().push(number);
        }
    }

    /// Puts one figure in the place of a row's.
    pub fn replace(&mut self, row: &str, way: &str, figure: f64) {
        let key = (row.to_owned(), way.to_owned());
        self.0.insert(key, vec![figure]);
    }

    /// Takes the figures of the rows whose names begin so from another boot, and from that alone.
    pub fn take(&mut self, prefix: &str, from: &Self) {
        let rows = from
            .0
            .iter()
            .filter(|((row, _), _)| row.starts_with(prefix));
        let rows = rows.map(|(key, figures)| (key.clone(), figures.clone()));
        self.0.retain(|(row, _), _| !row.starts_with(prefix));
        self.0.extend(rows.collect::<Vec<_>>());
    }

    /// The median of a row's figures.
    pub fn median(&self, row: &str, way: &str) -> Option<f64> {
        let mut all = self.0.get(&(row.to_owned(), way.to_owned()))?.clone();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied()
    }

    /// Rows and ways, in order.
    pub fn rows(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.keys().map(|(row, way)| (row.as_str(), way.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_another_boot_take_the_place_of_all_of_their_kind() {
        let (mut clock, mut logged) = (Figures::default(), Figures::default());
        for row in ["request_1", "request_64", "bind"] {
            clock.line(&format!("figure row={row} by=ours ns=9"));
        }
        logged.line("figure row=request_1 by=ours ns=5");
        clock.take("request", &logged);
        assert_eq!(clock.median("request_1", OURS), Some(5.0));
        assert_eq!(clock.median("request_64", OURS), None, "it was not logged");
        assert_eq!(clock.median("bind", OURS), Some(9.0));
    }

    #[test]
    fn median_is_of_the_row_and_the_way() {
        let mut figures = Figures::default();
        for line in [
            "figure row=bind by=ours ns=3.50",
            "figure row=bind by=ours ns=900",
            "figure row=bind by=ours ns=4.00",
            "figure row=bind by=iommufd ns=1",
            "figure row=bind by=ours",
            "# figure row=bind by=ours ns=0",
        ] {
            figures.line(line);
        }
        assert_eq!(figures.median("bind", OURS), Some(4.0));
        assert_eq!(figures.median("bind", IOMMUFD), Some(1.0));
        assert_eq!(figures.median("bind", TYPE1), None);
    }
}
