"""Axes of tensors as unknown permutations, and the equations between them.

- An `Atom` is one unknown permutation of `size` units. A fixed atom is the identity.
- A `Term` is the permutation of an axis: segments one after the other (concatenation). Each
  segment is a product of atoms, the last one fastest (flattening).
- An axis about which nothing is known is a single free atom.
- An equation between two terms binds or fixes atoms, until all tensors of a network agree.
"""

from __future__ import annotations

import math
from collections.abc import Iterator


class NotFollowed(ValueError):
    """Permutations cannot be derived for this operation; the message says why."""


class Atom:
    """A permutation of `size` units: unknown, `fixed` (the identity) or `bound` to a term."""

    __slots__ = ("bound", "fixed", "size")

    def __init__(self, size: int, fixed: bool = False):
        self.size, self.fixed = size, fixed
        self.bound: Term | None = None


Segment = tuple[Atom, ...]
Term = tuple[Segment, ...]


def free(size: int) -> Term:
    """An axis about which nothing is known."""
    return ((Atom(size),),)


def constant(size: int) -> Term:
    """An axis whose order has a meaning: it must not be permuted."""
    return ((Atom(size, fixed=True),),)


def extent(term: Term) -> int:
    """The length of an axis."""
    return sum(_size(segment) for segment in term)


def resolved(term: Term) -> Term:
    """The same axis in atoms that are not bound.

    Raises NotFollowed where a concatenation is repeated within every unit of another axis.
    """
    return tuple(part for segment in term for part in _expanded(segment))


def joined(term: Term) -> Term:
    """The same axis, resolved; neighbouring fixed segments become one."""
    found: list[Segment] = []
    for segment in resolved(term):
        if found and _still(segment) and _still(found[-1]):
            segment = (Atom(found.pop()[0].size + segment[0].size, fixed=True),)
        found.append(segment)
    return tuple(found)


def atoms(term: Term) -> Iterator[Atom]:
    """The free atoms of an axis."""
    return (atom for segment in resolved(term) for atom in segment if not atom.fixed)


def is_fixed(term: Term) -> bool:
    """Whether an axis cannot be permuted."""
    return not any(True for _ in atoms(term))


def fix(*terms: Term) -> None:
    """Allow no permutation of these axes."""
    for term in terms:
        for atom in tuple(atoms(term)):
            atom.fixed = True


def equate(a: Term, b: Term) -> None:
    """Give two axes of one length the same permutation; fix the parts where that is impossible."""
    if extent(a) != extent(b):
        raise NotFollowed(f"axes of lengths {extent(a)} and {extent(b)} are combined")
    while a:
        a, b = resolved(a), resolved(b)  # the last equation may have cut the later segments
        first, second = _size(a[0]), _size(b[0])
        if first < second:
            b = cut(b, first)
        elif second < first:
            a = cut(a, second)
        else:
            _equate(a[0], b[0])
            a, b = a[1:], b[1:]


def cut(term: Term, place: int) -> Term:
    """The same axis, with a boundary between segments at index `place`."""
    done: list[Segment] = []
    rest = term
    while place > 0 and rest:
        rest = resolved(rest)
        segment = rest[0]
        if _size(segment) <= place:
            done.append(segment)
            place, rest = place - _size(segment), rest[1:]
            continue
        inner = _size(segment[1:])
        if place % inner:
            fix((segment,))
        else:
            left, right = _halves(segment[0], place // inner)
            rest = ((left, *segment[1:]), (right, *segment[1:]), *rest[1:])
    return (*done, *rest)


def part(term: Term, start: int, stop: int) -> Term:
    """The indices start..stop of an axis. From now on no unit moves across these bounds."""
    found, place = [], 0
    for segment in resolved(cut(cut(term, stop), start)):
        if start <= place < stop:
            found.append(segment)
        place += _size(segment)
    return tuple(found)


def product(terms: list[Term]) -> Term:
    """The axis that results from flattening several axes, the last one fastest."""
    whole: Term = ((),)
    for term in map(joined, terms):
        if len(term) > 1 and extent(whole) > 1:
            raise NotFollowed("it flattens a concatenation behind another axis")
        whole = tuple((*left, *right) for left in whole for right in term)
    return whole


def factors(term: Term, sizes: list[int]) -> list[Term]:
    """The axes that result from splitting one axis, the last one fastest."""
    parts = [Atom(size, fixed=size == 1) for size in sizes]
    term, moving = joined(term), [atom for atom in parts if atom.size > 1]
    if len(moving) > 1 and len(term) > 1:
        raise NotFollowed("it splits an axis that was put together from parts")
    if len(moving) > 1:
        equate((tuple(moving),), term)
    return [term if [atom] == moving else ((atom,),) for atom in parts]


def _size(segment: Segment) -> int:
    return math.prod(atom.size for atom in segment)


def _still(segment: Segment) -> bool:
    return len(segment) == 1 and segment[0].fixed


def _expanded(segment: Segment) -> Term:
    """A segment in unbound atoms, with fixed neighbours merged.

    It becomes several segments if its first atom is bound to several.
    """
    whole: Term = ((),)
    for atom in segment:
        if atom.bound is not None:
            atom.bound = resolved(atom.bound)  # keeps chains of bound atoms short
        term = atom.bound or ((atom,),)
        if len(term) > 1 and _size(whole[0]) > 1:
            raise NotFollowed("it repeats a concatenation within every unit of another axis")
        whole = tuple((*left, *right) for left in whole for right in term)
    return tuple(map(_merged, whole))


def _merged(segment: Segment) -> Segment:
    """The segment without atoms of size 1, with fixed neighbours merged."""
    found: list[Atom] = []
    for atom in segment:
        if atom.size == 1:
            continue
        if atom.fixed and found and found[-1].fixed:
            atom = Atom(found.pop().size * atom.size, fixed=True)
        found.append(atom)
    return tuple(found) or (Atom(1, fixed=True),)


def _halves(atom: Atom, place: int) -> Segment:
    """Split an atom into two consecutive atoms, at index `place`."""
    left, right = (Atom(size, atom.fixed) for size in (place, atom.size - place))
    if not atom.fixed:
        atom.bound = ((left,), (right,))
    return left, right


def _divided(atom: Atom, size: int) -> Segment:
    """Split an atom into a product of two atoms, the first of a given size."""
    first, rest = Atom(size, atom.fixed), Atom(atom.size // size, atom.fixed)
    if not atom.fixed:
        atom.bound = ((first, rest),)
    return first, rest


def _equate(a: Segment, b: Segment) -> None:
    """Equate two segments of one size, in atoms that are not bound."""
    if a == b:
        return
    for one, other in ((a, b), (b, a)):
        if len(one) == 1 and not one[0].fixed:
            one[0].bound = (other,)
            return
    (p, *left), (q, *right) = a, b
    uneven = max(p.size, q.size) % min(p.size, q.size)
    if _still(a) or _still(b) or uneven:
        fix((a,), (b,))
        return
    if p.size > q.size:
        p, rest = _divided(p, q.size)
        left.insert(0, rest)
    elif q.size > p.size:
        q, rest = _divided(q, p.size)
        right.insert(0, rest)
    _equate((p,), (q,))
    if left:
        equate((tuple(left),), (tuple(right),))
