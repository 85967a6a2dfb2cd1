"""What must change nothing, for clouds that hypothesis draws."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geodistill.geometry import Moments, cka, gram_distance, procrustes_distance

few = settings(max_examples=40, deadline=None)


@st.composite
def clouds(draw):
    """Paired features in float64, a mask that keeps at least two rows, and a generator for what is done to them."""
    n, student_width, teacher_width = (draw(st.integers(low, 12)) for low in (3, 1, 1))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    student = torch.randn(n, student_width, generator=generator, dtype=torch.float64)
    teacher = torch.randn(n, teacher_width, generator=generator, dtype=torch.float64)
    share = draw(st.floats(0, 1))
    common = min(student_width, teacher_width)
    student[:, :common] = share * teacher[:, :common] + (1 - share) * student[:, :common]
    mask = torch.rand(n, generator=generator) < 0.7
    mask[:2] = True
    return student, teacher, mask, generator


def rotation(width, generator):
    return torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64)).Q


def values(student, teacher, mask=None, **options):
    """Squares, whose error is even; the roots of tiny numbers are not."""
    return torch.stack(
        [
            procrustes_distance(student, teacher, mask=mask, squared=True, **options),
            gram_distance(student, teacher, mask=mask, squared=True, **options),
            cka(student, teacher, mask=mask, **options),
        ]
    )


def assert_same(found, expected):
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9)


@few
@given(clouds(), st.booleans(), st.sampled_from([True, False, "rows"]))
def test_rotating_either_side(cloud, center, normalize):
    student, teacher, mask, generator = cloud
    expected = values(student, teacher, mask, center=center, normalize=normalize)
    turned = student @ rotation(student.shape[1], generator), teacher @ rotation(teacher.shape[1], generator)
    assert_same(values(*turned, mask, center=center, normalize=normalize), expected)


@few
@given(clouds(), st.floats(-100, 100), st.floats(-100, 100))
def test_translating_either_side(cloud, student_shift, teacher_shift):
    student, teacher, mask, _ = cloud
    assert_same(values(student + student_shift, teacher + teacher_shift, mask), values(student, teacher, mask))


@few
@given(clouds(), st.floats(1e-4, 1e4), st.floats(1e-4, 1e4), st.booleans())
def test_scaling_either_side(cloud, student_scale, teacher_scale, center):
    student, teacher, mask, _ = cloud
    scaled = values(student * student_scale, teacher * teacher_scale, mask, center=center)
    assert_same(scaled, values(student, teacher, mask, center=center))


@few
@given(clouds(), st.integers(1, 8), st.integers(1, 8), st.booleans())
def test_padding_with_zero_features(cloud, student_more, teacher_more, center):
    student, teacher, mask, _ = cloud
    wide = torch.nn.functional.pad(student, (0, student_more)), torch.nn.functional.pad(teacher, (0, teacher_more))
    assert_same(values(*wide, mask, center=center), values(student, teacher, mask, center=center))


@few
@given(clouds(), st.booleans(), st.sampled_from([True, False, "rows"]))
def test_masking_rows_is_removing_them(cloud, center, normalize):
    student, teacher, mask, _ = cloud
    expected = values(student[mask], teacher[mask], center=center, normalize=normalize)
    student[~mask], teacher[~mask] = torch.nan, torch.inf
    assert_same(values(student, teacher, mask, center=center, normalize=normalize), expected)


@few
@given(clouds(), st.integers(1, 5))
def test_padding_with_masked_rows(cloud, more):
    student, teacher, mask, _ = cloud
    longer = [torch.nn.functional.pad(x, (0, 0, 0, more), value=7.0) for x in (student, teacher)]
    assert_same(values(*longer, torch.nn.functional.pad(mask, (0, more))), values(student, teacher, mask))


@few
@given(clouds())
def test_order_of_rows(cloud):
    student, teacher, mask, generator = cloud
    order = torch.randperm(len(student), generator=generator)
    assert_same(values(student[order], teacher[order], mask[order]), values(student, teacher, mask))


@few
@given(clouds())
def test_leading_dimensions(cloud):
    student, teacher, mask, _ = cloud
    doubled = [torch.cat([x, x + 1]) for x in (student, teacher)]
    masks = torch.cat([mask, mask])
    shaped = [x.reshape(2, -1, 1, x.shape[1]) for x in doubled]
    assert_same(values(*shaped, masks.reshape(2, -1, 1)), values(*doubled, masks))


@few
@given(clouds(), st.floats(0.1, 10))
def test_equal_weights_are_no_weights(cloud, weight):
    student, teacher, mask, _ = cloud
    assert_same(values(student, teacher, mask * weight), values(student, teacher, mask))


@few
@given(clouds())
def test_integer_weights_are_repeated_rows(cloud):
    student, teacher, mask, generator = cloud
    times = torch.randint(1, 4, mask.shape, generator=generator) * mask
    repeated = [x.repeat_interleave(times, 0) for x in (student, teacher)]
    assert_same(values(student, teacher, times), values(*repeated))


@few
@given(clouds(), st.integers(0, 12))
def test_moments_of_parts_add_up_to_the_whole(cloud, cut):
    student, teacher, mask, _ = cloud
    parts = [Moments.from_rows(student[p], teacher[p], mask[p]) for p in (slice(None, cut), slice(cut, None))]
    whole, total = Moments.from_rows(student, teacher, mask), parts[0] + parts[1]
    for name in ("student_mean", "teacher_mean", "student_square", "cross", "student_gram", "teacher_gram"):
        assert_same(getattr(total, name), getattr(whole, name))


@few
@given(clouds())
def test_ranges(cloud):
    student, teacher, mask, _ = cloud
    procrustes, gram, similarity = values(student, teacher, mask)
    assert 0 <= procrustes <= 2 and 0 <= gram <= 2 + 1e-12 and 0 <= similarity <= 1 + 1e-12


@few
@given(clouds())
def test_the_gram_distance_is_a_matter_of_norms_and_cka(cloud):
    """D_FG² = (‖K_T‖ − ‖K_S‖)² + 2‖K_T‖‖K_S‖(1 − CKA)."""
    student, teacher, mask, _ = cloud
    sides = [x[mask] - x[mask].mean(0) for x in (student, teacher)]
    a, b = ((x @ x.T / x.square().sum()).norm() for x in sides)
    _, gram, similarity = values(student, teacher, mask)
    assert_same(gram, (a - b) ** 2 + 2 * a * b * (1 - similarity))


@few
@given(clouds())
def test_both_distances_vanish_together(cloud):
    _, teacher, mask, generator = cloud
    wide = torch.nn.functional.pad(teacher, (0, 3))
    congruent = 3 * wide @ rotation(wide.shape[1], generator) - 2
    assert procrustes_distance(congruent, teacher, mask=mask) < 1e-7
    assert gram_distance(congruent, teacher, mask=mask) < 1e-7
    apart = teacher + 0.1 * torch.randn(teacher.shape, generator=generator, dtype=torch.float64)
    distances = [distance(apart, teacher, mask=mask) for distance in (procrustes_distance, gram_distance)]
    assert (distances[0] < 1e-7) == (distances[1] < 1e-7)
