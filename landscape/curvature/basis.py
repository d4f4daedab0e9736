"""The basis vectors of a Lanczos process: on which device they are kept, and float64 sums."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor

from ridgeline.landscape.curvature.memory import free_bytes, short_memory
from ridgeline.landscape.curvature.operators import Products
from ridgeline.landscape.distributed import everywhere
from ridgeline.models.errors import InputError

_PIECE = {"cpu": 1 << 14}  # columns processed at once: all their rows stay in a CPU's cache
_LARGE_PIECE = 1 << 18  # other devices: so few pieces that kernel launches cost nothing
_LEAST_PIECE = 1 << 10  # a device without memory for so little cannot be used at all
_USABLE = 0.8  # of the host's free memory: the work on pieces and the results need memory too
#: bytes up to which a CPU keeps the rows in float64: a tenth faster, and the memory is small
_SMALL = 2**31


class Rows:
    """Up to `capacity` vectors (P,) as the rows of `values`; products with them are in float64.

    Args:
        operator: Gives the size P, the dtype and the device of the vectors.
        capacity: Number of rows.
        beside: Number of further vectors that the caller keeps on the same device.

    Raises:
        InputError: if rows and further vectors do not fit into the host's memory.

    - Device: the operator's, if everything fits into half of its free memory. Else the host. All
      processes of torchrun choose the same.
    - Dtype: the operator's. Rounding a unit row to float32 changes its inner products with the
      others by at most 1e-7. The operator's products have the same error.
    - A CPU keeps a small basis in float64, because conversion costs time. The choice depends on
      the sizes alone, so two runs agree to the last bit.
    - Sums go over pieces of the columns. A piece that does not fit into memory is halved.
    """

    def __init__(self, operator: Products, capacity: int, beside: int = 0):
        size = operator.shape[0]
        self.dtype = operator.dtype
        small = 8 * size * capacity <= _SMALL
        if operator.device.type == "cpu" and small:
            self.dtype = torch.float64
        need = (capacity + beside) * size * operator.dtype.itemsize
        self.device = torch.device("cpu")
        if operator.device.type != "cpu":
            self._try(operator.device, capacity, size, need)
        if self.device.type == "cpu":
            need = (capacity * self.dtype.itemsize + beside * operator.dtype.itemsize) * size
            too_large = (
                f"{capacity + beside} vectors of {size} numbers do not fit in the free memory; "
                "ask for fewer eigenpairs or steps, or a block of the parameters"
            )
            if need > _USABLE * free_bytes(self.device):
                raise InputError(too_large)
            try:
                with short_memory():
                    self.values = torch.empty(capacity, size, dtype=self.dtype)
            except torch.OutOfMemoryError:
                raise InputError(too_large) from None
        self._width = _PIECE.get(self.device.type, _LARGE_PIECE)

    def _try(self, device: torch.device, capacity: int, size: int, need: int) -> None:
        """Keep the rows on the device, if the device of every process has the memory."""
        values = None
        if need <= free_bytes(device) // 2:
            with suppress(torch.OutOfMemoryError), short_memory():
                values = torch.empty(capacity, size, dtype=self.dtype, device=device)
        if everywhere(values is not None):
            self.values, self.device = values, device

    def __getitem__(self, number: int) -> Tensor:
        return self.values[number]

    def __setitem__(self, number: int, row: Tensor) -> None:
        self.values[number] = row

    def own(self, vector: Tensor) -> Tensor:
        """A vector (P,) in float64, on the device of the rows."""
        return vector.to(self.device, torch.float64)

    def dots(self, count: int, vector: Tensor) -> Tensor:
        """The inner products (count,) of the first rows with a vector of `own`, on the host."""
        if self.dtype == torch.float64:
            return (self.values[:count] @ vector).cpu()
        return self._dots(count, vector).cpu()

    def rest_of(self, count: int, vector: Tensor) -> Tensor:
        """The component of a vector of `own` that is orthogonal to the first rows.

        The projection is removed twice, which is enough (Kahan and Parlett). One pass over the
        pieces removes the first projection and computes the second.
        """
        if self.dtype == torch.float64:
            rows = self.values[:count]
            for _ in range(2):
                vector = vector - rows.T @ (rows @ vector)
            return vector
        rest, first = vector.clone(), self._dots(count, vector)
        second = torch.zeros_like(first)

        def again(cut: slice) -> None:
            rows = self.values[:count, cut].double()
            part = rest[cut] - first @ rows
            more = rows.mv(part)
            rest[cut] = part  # written last: a piece that does not fit starts again
            second.add_(more)

        def last(cut: slice) -> None:
            rest[cut] -= second @ self.values[:count, cut].double()

        self.by_pieces(again)
        self.by_pieces(last)
        return rest

    def combined(self, weights: Tensor) -> Tensor:
        """The combinations (P, k) of the first n rows with weights (n, k), on the host."""
        count = len(weights)
        if self.dtype == torch.float64 and self.device.type == "cpu":
            return self.values[:count].T @ weights
        mix = weights.T.to(self.device)
        found = torch.empty(len(mix), self.values.shape[1], dtype=torch.float64)

        def fill(cut: slice) -> None:
            found[:, cut] = (mix @ self.values[:count, cut].double()).cpu()

        self.by_pieces(fill)
        return found.T

    def by_pieces(self, step: Callable[[slice], None]) -> None:
        """Call `step` for all columns, piece by piece. A piece that runs out of memory is halved.

        A step must allocate all it needs before it changes anything.
        """
        size = self.values.shape[1]
        todo = [slice(n, min(n + self._width, size)) for n in range(0, size, self._width)][::-1]
        while todo:
            cut = todo.pop()
            try:
                with short_memory():
                    step(cut)
            except torch.OutOfMemoryError:
                half = (cut.stop - cut.start) // 2
                if half < _LEAST_PIECE:
                    raise
                self._width = min(self._width, half)
                middle = cut.start + half
                todo += [slice(middle, cut.stop), slice(cut.start, middle)]

    def _dots(self, count: int, vector: Tensor) -> Tensor:
        total = torch.zeros(count, dtype=torch.float64, device=self.device)
        self.by_pieces(lambda cut: total.add_(self.values[:count, cut].double() @ vector[cut]))
        return total
