//! Draws the demo's pictures: `cargo run -p tensorpool-e2e --example make_images -- DIR`.
//!
//! They are made here and nowhere else, so that they may go wherever this repository goes.

use std::error::Error;
use std::path::PathBuf;

use image::{ImageFormat, Rgb, RgbImage};

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args_os().nth(1);
    let directory = PathBuf::from(directory.ok_or("usage: make_images DIR")?);
    let save = |name: &str, picture: RgbImage, format| {
        picture.save_with_format(directory.join(name), format)
    };
    save("1-fractal.jpg", fractal(640, 480), ImageFormat::Jpeg)?;
    save("2-test-card.png", test_card(800, 600), ImageFormat::Png)?;
    save("3-waves.jpg", waves(1280, 720), ImageFormat::Jpeg)?;
    save("4-hills.png", hills(513, 511), ImageFormat::Png)?;
    Ok(())
}

/// The Mandelbrot set.
fn fractal(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let real = f64::from(x) / f64::from(width) * 3.0 - 2.2;
        let imaginary = f64::from(y) / f64::from(height) * 2.4 - 1.2;
        let (mut a, mut b, mut steps) = (0.0, 0.0, 0_u8);
        while steps < 120 && a * a + b * b < 4.0 {
            (a, b) = (a * a - b * b + real, 2.0 * a * b + imaginary);
            steps += 1;
        }
        if steps == 120 {
            Rgb([12, 10, 30])
        } else {
            Rgb([steps * 2, steps.wrapping_mul(5), 90 + steps])
        }
    })
}

/// Colour bars, a grey ramp and a grid.
fn test_card(width: u32, height: u32) -> RgbImage {
    const BARS: [[u8; 3]; 8] = [
        [235, 235, 235],
        [235, 235, 16],
        [16, 235, 235],
        [16, 235, 16],
        [235, 16, 235],
        [235, 16, 16],
        [16, 16, 235],
        [16, 16, 16],
    ];
    RgbImage::from_fn(width, height, |x, y| {
        if x % 100 == 0 || y % 100 == 0 {
            return Rgb([255, 255, 255]);
        }
        if y < height * 2 / 3 {
            let bar = usize::try_from(x * 8 / width).unwrap_or(0);
            return Rgb(BARS[bar.min(7)]);
        }
        let grey = u8::try_from(x * 255 / width).unwrap_or(255);
        Rgb([grey, grey, grey])
    })
}

/// Two circular waves over each other.
fn waves(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let wave = |left: f64, top: f64, length: f64| {
            let (dx, dy) = (f64::from(x) - left, f64::from(y) - top);
            (dx.hypot(dy) / length).sin()
        };
        let sum = wave(300.0, 200.0, 23.0) + wave(1000.0, 560.0, 31.0);
        let level = level(sum / 4.0 + 0.5);
        Rgb([level / 2, level, 255 - level / 3])
    })
}

/// Hills behind hills under an evening sky.
fn hills(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let (across, down) = (
            f64::from(x) / f64::from(width),
            f64::from(y) / f64::from(height),
        );
        for (layer, tone) in [(3.0, 20_u8), (2.0, 60), (1.0, 100)] {
            let ridge = 0.35 + layer * 0.15 + 0.07 * (across * (9.0 - layer) + layer).sin();
            if down > ridge {
                return Rgb([tone / 2, tone, tone / 2 + 10]);
            }
        }
        Rgb([
            level(0.9 - down / 4.0),
            level(0.7 - down / 2.0),
            level(0.4 + down / 2.0),
        ])
    })
}

/// A fraction as a brightness, 0 to 255.
fn level(fraction: f64) -> u8 {
    (0..=u8::MAX)
        .rev()
        .find(|level| f64::from(*level) <= fraction * 255.0)
        .unwrap_or(0)
}
