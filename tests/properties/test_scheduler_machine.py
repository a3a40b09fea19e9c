"""The scheduler and its blocks under any schedule: a state machine that plays engine, model and impatient users."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from decoding.engine.block_manager import BLOCK_SIZE, MAX_DEPTH, BlockPool, num_blocks_of
from decoding.engine.scheduler import Family, Scheduler
from decoding.testing.scripted import ScriptedCache


class EngineMachine(RuleBasedStateMachine):
    """Prompts of few distinct blocks come, get tokens, end, and are taken back at any moment."""

    @initialize(
        max_running=st.integers(1, 4),
        spare=st.integers(1, 12),
        budget=st.integers(1, 40),
        keeps=st.booleans(),
        copies=st.booleans(),
    )
    def start(self, max_running, spare, budget, keeps, copies):
        """A small memory, so that it is always short."""
        self.pool = BlockPool(2 * max_running, MAX_DEPTH + spare, keeps=keeps, copies=copies)
        self.copies = copies
        self.scheduler = Scheduler(self.pool, max_running, max_running + budget)
        self.cache = ScriptedCache(self.pool.num_slots)
        self.families, self.generated, self.arrival = [], {}, 0

    @rule(
        blocks=st.lists(st.integers(0, 1), max_size=4),
        rest=st.integers(1, BLOCK_SIZE),
        n=st.integers(1, 5),
        tails=st.booleans(),
    )
    def add(self, blocks, rest, n, tails):
        """A prompt that often begins like another one; with tails, each sequence has its own tokens behind it."""
        token_ids = [block for block in blocks for _ in range(BLOCK_SIZE)] + [2] * rest
        token_ids = token_ids[: self.scheduler.max_tokens - BLOCK_SIZE + 1]
        self.arrival += 1
        family = Family(self.arrival, token_ids, n, finds=n != 3, max_chunk=7 if n == 2 else 1000)
        family.tails = [[5 + choice] * (1 + choice) for choice in range(n)] if tails else None
        self.families.append(family)
        self.scheduler.add(family)

    @precondition(lambda self: self.scheduler.has_work)
    @rule(token=st.integers(3, 4), ends=st.sets(st.integers(0, 20)), draft=st.integers(0, 3))
    def step(self, token, ends, draft):
        """One step as the engine takes it; some of those that got a token end, and with `draft` guess some first."""
        for entry in self.scheduler.running:
            entry.draft = [9] * min(draft, self.scheduler.max_tokens - len(entry.token_ids))
        entries = self.scheduler.schedule()
        assert entries, "somebody always gets on"
        assert sum(entry.num_new + entry.num_draft for entry in entries) <= self.scheduler.max_batched_tokens
        self.follow()
        for entry in entries:
            fed = entry.token_ids[entry.num_computed :][: entry.num_new] + [9] * entry.num_draft
            assert entry.num_computed + len(fed) <= BLOCK_SIZE * self.pool._slots[entry.slot].end, "memory for all"
            assert self.cache.prefix(entry.slot, entry.num_computed) == entry.token_ids[: entry.num_computed]
            self.cache.extend(entry.slot, entry.num_computed, fed)
        self.scheduler.commit(entries)
        for entry in entries:
            if entry.num_pending:
                continue
            entry.token_ids.append(token)
            key = (entry.family.arrival, entry.choice)
            self.generated[key] = self.generated.get(key, 0) + 1
            full = len(entry.token_ids) > self.scheduler.max_tokens
            if full or self.generated[key] > 20 or self.generated[key] in ends:
                self.scheduler.finish(entry, forget=self.generated[key] % 2 == 0)

    @precondition(lambda self: self.families)
    @rule(data=st.data())
    def abort(self, data):
        """All sequences of a prompt at once, those that have not started included."""
        family = data.draw(st.sampled_from(self.families))
        self.families.remove(family)
        self.scheduler.remove(family)
        assert family not in self.scheduler.waiting
        assert all(entry.family is not family for entry in self.scheduler.entries())

    def follow(self):
        """What the engine does with the changes."""
        for slot, num_tokens, base in self.pool.changes:
            if base is None:
                self.cache.truncate(slot, num_tokens)
            elif self.copies:
                self.cache.truncate(slot, 0)
                self.cache.extend(slot, 0, self.cache.prefix(base, num_tokens))
            else:
                self.cache.share(base, slot, num_tokens)
        self.pool.changes.clear()

    @invariant()
    def memory_is_never_exceeded(self):
        """Blocks, slots and running sequences stay within their bounds, and the cache within the blocks."""
        if not hasattr(self, "pool"):
            return
        assert 0 <= self.pool.num_live <= self.pool.num_used <= self.pool.num_blocks
        assert len(self.scheduler.running) <= self.scheduler.max_running
        slots = [entry.slot for entry in self.scheduler.running]
        assert len(set(slots)) == len(slots)
        self.follow()
        assert self.cache.num_tokens <= self.pool.num_used * BLOCK_SIZE
        for entry in self.scheduler.running:
            num_computed = entry.num_computed
            assert self.cache.prefix(entry.slot, num_computed) == entry.token_ids[:num_computed]
        assert self.scheduler.running == sorted(self.scheduler.running, key=lambda entry: entry.order)
        assert self.scheduler.preempted == sorted(self.scheduler.preempted, key=lambda entry: entry.order)

    def teardown(self):
        """Everything ends within as many steps as there are tokens to feed, and leaves nothing behind."""
        if not hasattr(self, "pool"):
            return
        oldest, patience = None, 0
        while self.scheduler.has_work:
            first = min((entry.order for entry in self.scheduler.entries()), default=None)
            patience = 0 if first != oldest else patience + 1
            oldest = first
            assert patience < 200, "the oldest sequence starves"
            self.step(token=3, ends=set(), draft=0)
        assert self.pool.num_live == 0
        assert len(self.generated) >= sum(family.num_started for family in self.families)
        kept = sum(1 for digest in self.pool._index)
        assert kept <= self.pool.num_used
        whole = self.pool.open()  # with nobody holding anything, all memory can be had again
        assert self.pool.reserve(whole.slot, self.pool.num_blocks * BLOCK_SIZE)
        assert num_blocks_of(self.pool.num_blocks * BLOCK_SIZE) == self.pool.num_used


EngineMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestEngine = EngineMachine.TestCase
TestEngine.__doc__ = "No leak, no double free, no starvation, and every sequence finds its own tokens in the cache."
