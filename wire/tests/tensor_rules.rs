//! Shapes and strides: what a producer may write and a consumer takes.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use tensorpool_wire::{
    Dtype, MAX_DIMS, MajorOrder, ProgressUnit, Tensor, TensorHeader, TensorReject,
};

fn header(order: MajorOrder, shape: &[u32]) -> TensorHeader {
    TensorHeader::contiguous(Dtype::Uint16, order, shape).unwrap()
}

fn row(shape: &[u32]) -> TensorHeader {
    header(MajorOrder::Row, shape)
}

fn strided(shape: &[u32], strides: &[u32]) -> TensorHeader {
    row(shape).with_strides(strides).unwrap()
}

fn check(header: TensorHeader) -> Result<Tensor, TensorReject> {
    header.validate(1 << 20)
}

// spec: W-15.8-1
#[test]
fn element_types_have_their_sizes() {
    let sizes = Dtype::KNOWN
        .iter()
        .map(|dtype| (dtype.raw(), dtype.size_bytes().unwrap()));
    let expected = [
        (1, 1),
        (2, 1),
        (3, 2),
        (4, 2),
        (5, 4),
        (6, 4),
        (7, 8),
        (8, 8),
        (9, 4),
        (10, 8),
        (11, 1),
        (13, 1),
        (14, 1),
    ];
    assert_eq!(sizes.collect::<Vec<_>>(), expected);
    for raw in [-1, 0, 12, 15, i16::MIN] {
        assert_eq!(Dtype::from_raw(raw), Dtype::Unknown(raw));
        assert_eq!(Dtype::from_raw(raw).size_bytes(), None);
    }
}

// spec: W-15.8-2
#[test]
fn unknown_enum_values_are_never_guessed() {
    for raw in [0, 12, 15, -1] {
        let header = TensorHeader {
            dtype: Dtype::Unknown(raw),
            ..row(&[1])
        };
        assert_eq!(check(header), Err(TensorReject::Dtype { raw }));
    }
    for raw in [0, 3, -1] {
        let header = TensorHeader {
            major_order: MajorOrder::Unknown(raw),
            ..row(&[1])
        };
        assert_eq!(check(header), Err(TensorReject::MajorOrder { raw }));
    }
    let header = TensorHeader {
        progress_unit: ProgressUnit::Unknown(3),
        ..row(&[1])
    };
    assert_eq!(check(header), Err(TensorReject::ProgressUnit { raw: 3 }));
}

// spec: W-8.2-7, W-15.8-4
#[test]
fn one_to_eight_dimensions_are_possible() {
    assert_eq!(MAX_DIMS, 8);
    assert!(check(row(&[1; 8])).is_ok());
    for ndims in [0, 9, 255] {
        let found = usize::from(ndims);
        let header = TensorHeader { ndims, ..row(&[1]) };
        assert_eq!(check(header), Err(TensorReject::Ndims { found }));
    }
    for found in [0, 9, 300] {
        let shape = vec![1; found];
        let written = TensorHeader::contiguous(Dtype::Int8, MajorOrder::Row, &shape);
        assert_eq!(written, Err(TensorReject::Ndims { found }));
    }
}

#[test]
fn dimensions_are_not_negative() {
    let mut header = row(&[4, 4]);
    header.dims[1] = -1;
    assert_eq!(check(header), Err(TensorReject::Dim { axis: 1 }));
    let too_long = [1, 1 << 31];
    let written = TensorHeader::contiguous(Dtype::Int8, MajorOrder::Row, &too_long);
    assert_eq!(written, Err(TensorReject::Dim { axis: 1 }));
}

// spec: W-8.2-10, W-10.2.2-4
#[test]
fn strides_left_out_follow_from_the_shape() {
    let tensor = check(row(&[4, 3, 2])).unwrap();
    assert_eq!(tensor.strides(), [12, 4, 2]);
    assert_eq!(tensor.extent_bytes(), 48);
    assert!(tensor.is_contiguous());
    let tensor = check(header(MajorOrder::Column, &[4, 3, 2])).unwrap();
    assert_eq!(tensor.strides(), [2, 8, 24]);
    assert_eq!(tensor.extent_bytes(), 48);
    assert!(tensor.is_contiguous());
}

// spec: W-8.2-10
#[test]
fn one_stride_left_out_follows_from_the_others() {
    let tensor = check(strided(&[4, 3, 2], &[0, 10, 0])).unwrap();
    assert_eq!(tensor.strides(), [30, 10, 2]);
    assert_eq!(tensor.extent_bytes(), 3 * 30 + 2 * 10 + 2 + 2);
    assert!(!tensor.is_contiguous());
}

// spec: W-8.2-10
#[test]
fn strides_must_keep_elements_apart() {
    assert!(check(strided(&[4, 3], &[6, 2])).is_ok());
    let overlapping = check(strided(&[4, 3], &[5, 2]));
    assert_eq!(
        overlapping,
        Err(TensorReject::Overlap {
            axis: 0,
            found: 5,
            least: 6
        })
    );
    let inside_an_element = check(strided(&[4, 3], &[6, 1]));
    assert_eq!(
        inside_an_element,
        Err(TensorReject::Overlap {
            axis: 1,
            found: 1,
            least: 2
        })
    );
}

// spec: W-8.2-10
#[test]
fn strides_must_fit_the_major_order() {
    let column_like = check(strided(&[4, 3], &[2, 8]));
    assert_eq!(
        column_like,
        Err(TensorReject::Overlap {
            axis: 0,
            found: 2,
            least: 24
        })
    );
    let column = header(MajorOrder::Column, &[4, 3])
        .with_strides(&[2, 8])
        .unwrap();
    assert!(check(column).is_ok());
    let row_like = header(MajorOrder::Column, &[4, 3])
        .with_strides(&[6, 2])
        .unwrap();
    assert_eq!(
        check(row_like),
        Err(TensorReject::Overlap {
            axis: 1,
            found: 2,
            least: 24
        })
    );
}

// spec: W-8.2-10
#[test]
fn strides_are_not_negative() {
    let mut header = row(&[4, 3]);
    header.strides[0] = -6;
    assert_eq!(check(header), Err(TensorReject::Stride { axis: 0 }));
    assert_eq!(
        row(&[4]).with_strides(&[1 << 31]),
        Err(TensorReject::Stride { axis: 0 })
    );
}

#[test]
fn as_many_strides_as_dimensions_are_given() {
    let wrong = row(&[4, 3]).with_strides(&[6]);
    assert_eq!(
        wrong,
        Err(TensorReject::StrideCount {
            expected: 2,
            found: 1
        })
    );
}

#[test]
fn the_shape_spans_no_more_bytes_than_the_payload() {
    assert!(row(&[4, 3]).validate(24).is_ok());
    let short = row(&[4, 3]).validate(23);
    assert_eq!(
        short,
        Err(TensorReject::Extent {
            extent: 24,
            values_len_bytes: 23
        })
    );
    // Rows may be padded; after the last one no pad is needed.
    assert!(strided(&[4, 3], &[16, 2]).validate(3 * 16 + 6).is_ok());
    assert!(strided(&[4, 3], &[16, 2]).validate(3 * 16 + 5).is_err());
}

// spec: W-8.2-12
#[test]
fn an_empty_payload_may_have_any_shape() {
    assert!(row(&[480, 640]).validate(0).is_ok());
    let tensor = row(&[0, 640]).validate(0).unwrap();
    assert_eq!(
        (tensor.shape(), tensor.extent_bytes()),
        ([0, 640].as_slice(), 0)
    );
}

#[test]
fn bits_may_be_packed() {
    let bits = TensorHeader::contiguous(Dtype::Bit, MajorOrder::Row, &[64]).unwrap();
    assert!(bits.validate(8).is_ok());
}

#[test]
fn shapes_beyond_all_memory_are_refused_and_not_wrapped_around() {
    let most = i32::MAX.unsigned_abs();
    let dims = row(&[most; 8]);
    assert_eq!(
        dims.validate(u32::MAX),
        Err(TensorReject::StrideTooLong { axis: 5 })
    );
    assert_eq!(
        dims.validate(0),
        Err(TensorReject::StrideTooLong { axis: 5 })
    );
    let column = header(MajorOrder::Column, &[most; 8]);
    assert_eq!(
        column.validate(0),
        Err(TensorReject::StrideTooLong { axis: 2 })
    );
    let wide = strided(&[most, 2], &[most, 2]);
    assert_eq!(wide.validate(u32::MAX).unwrap_err().reason(), "extent");
}

// spec: W-8.2-11, W-10.2.2-3
#[test]
fn the_progress_stride_is_the_stride_of_its_dimension() {
    for (unit, stride) in [(ProgressUnit::Rows, 16), (ProgressUnit::Columns, 2)] {
        let right = strided(&[4, 3], &[16, 2]).with_progress(unit).unwrap();
        assert_eq!(right.progress_stride_bytes, stride);
        assert_eq!(check(right).map(|tensor| tensor.progress_unit()), Ok(unit));
        for found in [0, stride - 1, stride + 1] {
            let wrong = TensorHeader {
                progress_stride_bytes: found,
                ..right
            };
            let expected = TensorReject::ProgressStride {
                expected: Some(stride),
                found,
            };
            assert_eq!(check(wrong), Err(expected));
        }
    }
}

// spec: W-8.2-11
#[test]
fn the_progress_stride_follows_from_inferred_strides_too() {
    let rows = row(&[480, 640]).with_progress(ProgressUnit::Rows).unwrap();
    assert_eq!(rows.progress_stride_bytes, 1_280);
    assert!(check(rows).is_ok());
}

// spec: W-8.2-11
#[test]
fn one_dimension_has_no_columns() {
    let no_such = TensorReject::ProgressStride {
        expected: None,
        found: 0,
    };
    assert_eq!(row(&[4]).with_progress(ProgressUnit::Columns), Err(no_such));
    let header = TensorHeader {
        progress_unit: ProgressUnit::Columns,
        progress_stride_bytes: 2,
        ..row(&[4])
    };
    assert_eq!(check(header).unwrap_err().reason(), "progress_stride");
}

#[test]
fn without_a_progress_unit_the_progress_stride_means_nothing() {
    let header = TensorHeader {
        progress_stride_bytes: 77,
        ..row(&[4])
    };
    assert!(check(header).is_ok());
    assert_eq!(header.with_progress(ProgressUnit::None), Ok(row(&[4])));
}
