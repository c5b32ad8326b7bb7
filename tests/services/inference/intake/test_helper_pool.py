"""Who is lent a helper next: everybody in the end, and nobody all of them."""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from services.inference.intake.helper_pool import FairSlots


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["take", "give", "cancel"])), max_size=60),
)
@settings(max_examples=150, deadline=None)
def test_items_go_round(count: int, steps: list[tuple[str, str]]) -> None:
    """Whatever callers do: no item is lent twice, none is lost, one is left where there are several."""

    async def go() -> None:
        slots = FairSlots(list(range(count)))
        lent: dict[str, list[asyncio.Task[int]]] = {caller: [] for caller in "abc"}

        def having() -> list[tuple[str, asyncio.Task[int]]]:
            tasks = ((caller, task) for caller, own in lent.items() for task in own)
            return [(caller, task) for caller, task in tasks if task.done()]

        async def give(caller: str, task: asyncio.Task[int]) -> None:
            lent[caller].remove(task)
            slots.give(caller, task.result())
            await settle()

        async def settle() -> None:
            for _ in range(4):
                await asyncio.sleep(0)

        for caller, step in steps:
            own = lent[caller]
            if step == "take":
                own.append(asyncio.create_task(slots.take(caller)))
            elif step == "give" and (done := [task for task in own if task.done()]):
                await give(caller, done[0])
            elif step == "cancel" and (waiting := [task for task in own if not task.done()]):
                waiting[0].cancel()
                own.remove(waiting[0])
            await settle()
            items = [task.result() for _, task in having()]
            assert len(items) == len(set(items)) <= count
            used = Counter(caller for caller, _ in having())
            assert all(number <= max(1, count - 1) for number in used.values())
            if len(items) < count:  # who waits has as many as it may
                for waiting_caller, tasks in lent.items():
                    assert all(task.done() for task in tasks) or used[waiting_caller] == max(1, count - 1)
        while found := having():  # and in the end all are served
            await give(*found[0])
        assert not any(lent.values())

    asyncio.run(go())


async def test_who_uses_the_fewest_comes_first() -> None:
    slots = FairSlots(["x", "y", "z"])
    order: list[str] = []

    async def use(caller: str) -> None:
        item = await slots.take(caller)
        order.append(caller)
        await asyncio.sleep(0.01)
        slots.give(caller, item)

    many = [asyncio.create_task(use("a")) for _ in range(20)]
    await asyncio.sleep(0)
    await asyncio.gather(*(use("b") for _ in range(3)), *many)
    assert "b" in order[:3]
    assert [place for place, caller in enumerate(order) if caller == "b"][-1] < 10


async def test_a_turn_that_comes_as_its_waiter_leaves_goes_to_the_next() -> None:
    slots = FairSlots(["x"])
    item = await slots.take("a")
    first, second = (asyncio.create_task(slots.take(caller)) for caller in "bc")
    await asyncio.sleep(0)
    slots.give("a", item)
    first.cancel()
    assert await second == "x"
