"""Time, accuracy and memory of the geometry losses, forward and backward, on this machine.

    python benchmarks/losses.py [--rounds 9] [--shapes 5] [--threads 1]

Times are ratios taken in one run, the candidates timed in turn so that a busy machine troubles all of them alike, and
the fastest round of each counts. They are in units of the product SᵀT of the same features. "written" is the loss as
people write it, "kept" the loss with a teacher prepared once. With one thread the processor's time is taken, which
waiting for other programs does not enter; with more, the clock's.

Accuracy is held against float64: the relative error of the loss and the cosine of the gradient; "polynomial" is the
error of the algorithm for accelerators, run here. "LM-like" features have a power-law spectrum and a few outlier
dimensions, as hidden states do; "Gaussian" ones are even noise.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from unittest import mock

import torch
from timing import Run, interleaved
from torch import Tensor
from torch.nn import functional

from geodistill.geometry import nuclear, prepare_features
from geodistill.losses import CKALoss, FeatureLoss, GramLoss, PCKALoss, ProcrustesLoss
from geodistill.runs.cost import peak_megabytes, reset_peak_memory

SHAPES = [(32, 128, 384), (256, 256, 768), (2048, 384, 768), (2048, 768, 1024), (4096, 768, 4096)]
MAP_SHAPES = [(16, 64, 32, 32, 4), (8, 256, 32, 32, 16), (2, 256, 100, 152, 16)]
"""Samples, channels, height, width and patch: of a CIFAR model, and of levels of a feature pyramid."""
LOSSES: dict[str, type[FeatureLoss]] = {"procrustes": ProcrustesLoss, "gram": GramLoss, "cka": CKALoss}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="how often each candidate is timed")
    parser.add_argument("--shapes", type=int, default=len(SHAPES), help="only the first so many shapes")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory", choices=LOSSES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        print(extra_memory(LOSSES[arguments.memory]()))
        return
    torch.set_flush_denormal(True)
    torch.set_num_threads(arguments.threads)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32, fastest of {arguments.rounds} rounds"
    )
    for spectrum, draw in (("LM-like", lm_like), ("Gaussian", gaussian)):
        print(f"\n{spectrum} features, times in units of SᵀT\n{HEADER}")
        for shape in SHAPES[: arguments.shapes]:
            print(row(shape, *draw(*shape), arguments.rounds), flush=True)
    print(f"\nPCKA, times in units of a loop over channels, float32\n{MAP_HEADER}")
    for shape in MAP_SHAPES:
        print(map_row(shape, arguments.rounds), flush=True)
    print("\nExtra memory at 65,536 rows of 768 against 1,024, beyond inputs and gradient:")
    for name in LOSSES:
        found = subprocess.run([sys.executable, __file__, "--memory", name], capture_output=True, text=True, check=True)
        print(f"  {name:<11}{float(found.stdout):5.0f} MB")


HEADER = (
    f"{'':17}{'SᵀT':>8} |{'Procrustes':^60} |{'Gram':^22} |{'CKA':^30}\n"
    f"{'(n, d_s, d_t)':17}{'ms':>8} |{'written':>8}{'ours':>7}{'ratio':>7}{'kept':>7}{'error':>9}{'cosine':>11}"
    f"{'polynomial':>11} |{'ours':>6}{'kept':>7}{'error':>9} |{'written':>8}{'ours':>6}{'kept':>7}{'error':>9}"
)


def row(shape: tuple[int, int, int], student: Tensor, teacher: Tensor, rounds: int) -> str:
    """One line of the table, for one shape."""
    student, prepared = student.requires_grad_(), prepare_features(teacher)
    procrustes, gram, cka = ProcrustesLoss(), GramLoss(), CKALoss()
    losses: dict[str, Callable[[], Tensor]] = {
        "written procrustes": lambda: written_procrustes(student, teacher),
        "procrustes": lambda: procrustes(student, teacher),
        "kept procrustes": lambda: procrustes(student, prepared),
        "gram": lambda: gram(student, teacher),
        "kept gram": lambda: gram(student, prepared),
        "written cka": lambda: written_cka(student, teacher),
        "cka": lambda: cka(student, teacher),
        "kept cka": lambda: cka(student, prepared),
    }
    steps: dict[str, Run] = {"product": lambda: student.detach().mT @ teacher}
    for name, loss in losses.items():
        steps[name] = lambda loss=loss: torch.autograd.grad(loss(), student)  # type: ignore[misc]
    times = {name: min(each) for name, each in interleaved(steps, rounds, shortest=0.02).items()}
    unit = times.pop("product")
    units = {name: seconds / unit for name, seconds in times.items()}
    (error, cosine), (gram_error, _), (cka_error, _) = (accuracy(each, student, teacher) for each in LOSSES.values())
    with mock.patch.object(nuclear, "choose_algorithm", lambda dtype, device: nuclear.by_polynomial):
        polynomial, _ = accuracy(ProcrustesLoss, student, teacher)
    return (
        f"{shape!s:17}{unit * 1e3:8.2f} |{units['written procrustes']:8.1f}{units['procrustes']:7.1f}"
        f"{units['procrustes'] / units['written procrustes']:7.2f}{units['kept procrustes']:7.1f}{error:9.0e}"
        f"{cosine:11.7f}{polynomial:11.0e} |{units['gram']:6.1f}{units['kept gram']:7.1f}{gram_error:9.0e} |"
        f"{units['written cka']:8.1f}{units['cka']:6.1f}{units['kept cka']:7.1f}{cka_error:9.0e}"
    )


def written_procrustes(student: Tensor, teacher: Tensor) -> Tensor:
    """The Procrustes distance as people write it."""
    s, t = student - student.mean(0), teacher - teacher.mean(0)
    s, t = s / s.norm(), t / t.norm()
    return s.square().sum() + t.square().sum() - 2 * torch.linalg.matrix_norm(s.mT @ t, "nuc")


def written_cka(student: Tensor, teacher: Tensor) -> Tensor:
    """CKA as people write it, with a centring matrix."""
    n = len(student)
    centring = torch.eye(n) - torch.ones(n, n) / n
    s, t = centring @ (student @ student.mT) @ centring, centring @ (teacher @ teacher.mT) @ centring
    return 1 - (s * t).sum() / (s.norm() * t.norm())


MAP_HEADER = "  samples, channels, height, width, patch    PCKA    from the published formula, uncentred"


def map_row(shape: tuple[int, int, int, int, int], rounds: int) -> str:
    """The time of PCKA against a loop over channels, and how far its value is from the published formula plus one."""
    *size, patch = shape
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(*size, generator=generator) for _ in range(2))
    student = (student + teacher).requires_grad_()
    loss = PCKALoss(patch=patch)

    def run(function: Callable[[Tensor, Tensor], Tensor]) -> Run:
        return lambda: torch.autograd.grad(function(student, teacher), student)

    times = interleaved({"loop": run(lambda s, t: written_pcka(s, t, patch)), "ours": run(loss)}, rounds)
    exact = 1 + written_pcka(student.double(), teacher.double(), patch, centered=False)
    error = abs(PCKALoss(patch=patch, centered=False)(student, teacher).item() - exact.item())
    return f"  {', '.join(map(str, shape)):<40}{min(times['ours']) / min(times['loop']):7.2f}    {error:.1e}"


def written_pcka(student: Tensor, teacher: Tensor, patch: int, *, centered: bool = True) -> Tensor:
    """−CKA of the patches, one channel at a time, and the mean over channels; the paper does not centre."""
    size = [-(-side // patch) * patch for side in teacher.shape[2:]]
    total = student.new_zeros(())
    for channel in range(student.shape[1]):
        kernels = []
        for maps in (student, teacher):
            maps = functional.interpolate(maps[:, channel : channel + 1], size=size, mode="bilinear")
            rows = functional.unfold(maps, patch, stride=patch)  # (samples, patch², patches)
            rows = rows.permute(2, 0, 1).flatten(1)
            rows = rows - rows.mean(0) if centered else rows
            kernels.append(rows @ rows.mT)
        total = total + (kernels[0] * kernels[1]).sum() / (kernels[0].norm() * kernels[1].norm())
    return -total / student.shape[1]


def accuracy(loss: type[FeatureLoss], student: Tensor, teacher: Tensor) -> tuple[float, float]:
    """Relative error of the loss and cosine of its gradient, against float64."""
    values, gradients = [], []
    for dtype in (torch.float32, torch.float64):
        leaf = student.detach().to(dtype).clone().requires_grad_()
        value = loss()(leaf, teacher.to(dtype))
        values.append(value.item())
        gradients.append(torch.autograd.grad(value, leaf)[0].double().flatten())
    found, exact = gradients
    return abs(values[0] / values[1] - 1), (found @ exact / (found.norm() * exact.norm())).item()


def gaussian(n: int, student_width: int, teacher_width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, student_width, generator=generator), torch.randn(n, teacher_width, generator=generator)


def lm_like(n: int, student_width: int, teacher_width: int) -> tuple[Tensor, Tensor]:
    """Two noisy views of one latent cloud whose standard deviations fall as 1/i, with three outlier dimensions each."""
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(n, max(student_width, teacher_width), generator=generator)

    def view(width: int, noise: float) -> Tensor:
        rotation = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
        seen = latent[:, :width] + noise * torch.randn(n, width, generator=generator)
        features = (seen / torch.arange(1, width + 1)) @ rotation
        outliers = torch.randperm(width, generator=generator)[:3]
        features[:, outliers] = 20 * features[:, outliers] + 5
        return features

    return view(student_width, 0.5), view(teacher_width, 0.0)


def extra_memory(loss: FeatureLoss) -> float:
    """Megabytes that a forward and backward pass needed beyond its inputs and its gradient."""
    student, teacher = torch.randn(65536, 768, requires_grad=True), torch.randn(65536, 1024)
    reset_peak_memory()  # a process begins with the peak of the one that started it
    before = peak_megabytes()
    loss(student, teacher).backward()
    return peak_megabytes() - before - student.numel() * student.element_size() / 1e6


if __name__ == "__main__":
    main()
