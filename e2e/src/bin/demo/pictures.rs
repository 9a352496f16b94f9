//! The pictures, and what frame number `n` of them looks like.

use std::fs;
use std::path::{Path, PathBuf};

use image::RgbImage;

/// Bytes of one pixel: red, green, blue.
pub(crate) const PIXEL_BYTES: usize = 3;
/// By how many pixels a frame is scrolled more than the one before.
const STEP: u64 = 3;

/// All pictures of a directory, in the order of their names, decoded.
#[derive(Debug)]
pub(crate) struct Pictures {
    pictures: Vec<RgbImage>,
}

/// One frame as it should be: a picture scrolled to the left.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    picture: &'a RgbImage,
    shift_bytes: usize,
}

impl Pictures {
    /// Decodes the PNG and JPEG files of the directory.
    pub(crate) fn load(directory: &Path) -> Result<Self, String> {
        let entries = fs::read_dir(directory).map_err(|error| {
            format!(
                "could not read {}: {error}; name a directory of .png or .jpg files with --images",
                directory.display()
            )
        })?;
        let mut files: Vec<PathBuf> = entries
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| is_picture(path))
            .collect();
        files.sort_unstable();
        let pictures: Vec<RgbImage> = files
            .iter()
            .map(|file| {
                let picture = image::open(file)
                    .map_err(|error| format!("could not decode {}: {error}", file.display()))?;
                Ok(picture.to_rgb8())
            })
            .collect::<Result<_, String>>()?;
        if pictures.is_empty() {
            return Err(format!(
                "{} holds no picture: put .png or .jpg files there, or name another directory with --images",
                directory.display()
            ));
        }
        Ok(Self { pictures })
    }

    /// Bytes of the largest picture.
    pub(crate) fn largest(&self) -> usize {
        let sizes = self.pictures.iter().map(|picture| picture.as_raw().len());
        sizes.max().unwrap_or(0)
    }

    /// What frame `seq` must look like.
    pub(crate) fn frame(&self, seq: u64) -> Frame<'_> {
        let count = u64::try_from(self.pictures.len()).unwrap_or(u64::MAX);
        let index = usize::try_from(seq % count).unwrap_or(0);
        let picture = self.pictures.get(index).unwrap_or(&self.pictures[0]);
        let width = u64::from(picture.width().max(1));
        let shift = usize::try_from(seq.wrapping_mul(STEP) % width).unwrap_or(0);
        Frame {
            picture,
            shift_bytes: shift * PIXEL_BYTES,
        }
    }
}

impl Frame<'_> {
    /// Height and width in pixels, and bytes per pixel.
    pub(crate) fn shape(&self) -> [u32; 3] {
        [self.picture.height(), self.picture.width(), 3]
    }

    /// Writes the frame, row after row, without gaps.
    pub(crate) fn write(&self, bytes: &mut Vec<u8>) {
        bytes.clear();
        for row in self.rows() {
            let (left, right) = row.split_at(self.shift_bytes);
            bytes.extend_from_slice(right);
            bytes.extend_from_slice(left);
        }
    }

    /// How many bytes differ; bytes that are too many or too few count as different.
    pub(crate) fn differing(&self, bytes: &[u8]) -> u64 {
        let expected = self.picture.as_raw().len();
        let mut differing = expected.abs_diff(bytes.len());
        for (row, found) in self.rows().zip(bytes.chunks(self.row_bytes())) {
            let (left, right) = row.split_at(self.shift_bytes);
            let (found_right, found_left) = found.split_at(right.len().min(found.len()));
            for (expected, found) in [(right, found_right), (left, found_left)] {
                if expected != found {
                    let pairs = expected.iter().zip(found);
                    differing += pairs.filter(|(expected, found)| expected != found).count();
                }
            }
        }
        u64::try_from(differing).unwrap_or(u64::MAX)
    }

    fn row_bytes(&self) -> usize {
        let width = usize::try_from(self.picture.width()).unwrap_or(0);
        width * PIXEL_BYTES
    }

    fn rows(&self) -> impl Iterator<Item = &[u8]> {
        self.picture.as_raw().chunks_exact(self.row_bytes().max(1))
    }
}

fn is_picture(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str());
    let ending = ending.map(str::to_ascii_lowercase);
    ["png", "jpg", "jpeg"]
        .iter()
        .any(|known| ending.as_deref() == Some(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_pictures() -> Pictures {
        let picture = |width, height, base: u8| {
            RgbImage::from_fn(width, height, |x, y| {
                let value = u8::try_from(x * 7 + y * 13).unwrap();
                image::Rgb([base, value, value ^ base])
            })
        };
        Pictures {
            pictures: vec![picture(5, 4, 1), picture(8, 3, 2)],
        }
    }

    #[test]
    fn a_frame_is_equal_to_itself_and_to_no_neighbour() {
        let pictures = two_pictures();
        let mut bytes = Vec::new();
        for seq in 0..20 {
            pictures.frame(seq).write(&mut bytes);
            assert_eq!(pictures.frame(seq).differing(&bytes), 0, "frame {seq}");
            assert_ne!(pictures.frame(seq + 2).differing(&bytes), 0, "frame {seq}");
        }
    }

    #[test]
    fn one_changed_byte_and_one_missing_byte_are_seen() {
        let pictures = two_pictures();
        let mut bytes = Vec::new();
        pictures.frame(3).write(&mut bytes);
        bytes[17] ^= 1;
        assert_eq!(pictures.frame(3).differing(&bytes), 1);
        bytes[17] ^= 1;
        bytes.pop();
        assert_eq!(pictures.frame(3).differing(&bytes), 1);
    }
}
