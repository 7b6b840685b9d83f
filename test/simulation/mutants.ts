/**
 * Broken lines of the two state machines and the stores, to see that the simulation notices. Each `find` is in its
 * file exactly once. One that may live says why in `survives`: what it breaks is not this simulation's to see.
 */
export type Mutant = { name: string; file: string; find: string; replace: string; survives?: string };

const source: readonly Mutant[] = [
  {
    name: "the handover is sent before it is durable",
    file: "protocol/source-handover.ts",
    find: `    { type: "persist", record: { phase: "handed-over", migration, destination, generation } },
    handover(context),`,
    replace: `    handover(context),
    { type: "persist", record: { phase: "handed-over", migration, destination, generation } },`,
  },
  {
    name: "a source that was restarted leaves the domain frozen",
    file: "protocol/source.ts",
    find: `[{ type: "unfence" }, { type: "unfreeze-domain" }]`,
    replace: `[{ type: "unfence" }]`,
  },
  {
    name: "the domain is not thawed when the link is lost while it is frozen",
    file: "protocol/source-handover.ts",
    find: `[{ type: "unfence" }, { type: "thaw-domain" }]`,
    replace: `[{ type: "unfence" }]`,
  },
  {
    name: "a thawed domain's vbds stay fenced",
    file: "protocol/source-handover.ts",
    find: `[{ type: "unfence" }, { type: "thaw-domain" }]`,
    replace: `[{ type: "thaw-domain" }]`,
  },
  {
    name: "the domain is thawed when the link is lost after the handover",
    file: "protocol/source-handover.ts",
    find: `    case "peer-lost":
      return [{ ...state, link: "down" }, []];
    case "received": {
      const { message } = event;
      if (message.type === "resumed")`,
    replace: `    case "peer-lost":
      return [{ ...state, link: "down" }, [{ type: "unfreeze-domain" }]];
    case "received": {
      const { message } = event;
      if (message.type === "resumed")`,
  },
  {
    name: "the handover is not repeated after a lost link",
    file: "protocol/source-handover.ts",
    find: `return [{ ...state, link: "up" }, persistAndHandOver(context)];`,
    replace: `return [{ ...state, link: "up" }, []];`,
  },
  {
    name: "the fence's round is not added to what is missing",
    file: "protocol/source-handover.ts",
    find: `      trip.sender.add(event.dirty);
`,
    replace: "",
  },
  {
    name: "the hot blocks are forgotten at the freeze",
    file: "protocol/source-handover.ts",
    find: `  trip.sender.add(trip.deferred);
`,
    replace: "",
  },
  {
    name: "the remains stay when `resumed` was lost",
    file: "protocol/source-handover.ts",
    find: `[{ type: "destroy-remains" }]);`,
    replace: `[]);`,
  },
  {
    name: "`finished` is not repeated after a lost link",
    file: "protocol/source-handover.ts",
    find: `return [{ ...state, link: "up" }, finished(state.counts, context)];`,
    replace: `return [{ ...state, link: "up" }, []];`,
  },
  {
    name: "the ladder is not repeated after a lost link",
    file: "protocol/source-precopy.ts",
    find: `      { type: "send", message: { type: "ladder", choices: up.trip.choices } },
`,
    replace: "",
  },
  {
    name: "the log is not repeated with memory-begin",
    file: "protocol/source-precopy.ts",
    find: `  if (!memory.ready) return askForMemory(attempt, context);`,
    replace: `  if (!memory.ready) return [{ type: "send", message: { type: "memory-begin", attempt } }];`,
  },
  {
    name: "the window of the memory stream is not emptied at a reconnect",
    file: "protocol/source-precopy.ts",
    find: `    { type: "forget-memory", offset: memoryTaken },
`,
    replace: "",
  },
  {
    name: "blocks on a lost link count as sent",
    file: "protocol/source-precopy.ts",
    find: `      trip.sender.takeBack();
`,
    replace: "",
  },
  {
    name: "the domain is frozen while blocks are on their way",
    file: "protocol/source-precopy.ts",
    find: `link === "up" && !trip.sender.hasInFlight && trip.roundsOpen === 0`,
    replace: `link === "up" && trip.roundsOpen === 0`,
  },
  {
    name: "the domain is frozen while a round is on its way",
    file: "protocol/source-precopy.ts",
    find: `link === "up" && !trip.sender.hasInFlight && trip.roundsOpen === 0`,
    replace: `link === "up" && !trip.sender.hasInFlight`,
  },
  {
    name: "the round of a fence that was undone is lost",
    file: "protocol/source-precopy.ts",
    find: `      trip.sender.add(event.dirty);
`,
    replace: "",
    survives:
      "rarer than so many seeds: a write, a fence and a lost link in one instant; source.test.ts says it",
  },
  {
    name: "the open generation's writes are not sent on the bitmaps rung",
    file: "protocol/source-negotiation.ts",
    find: `    since?.union(written);
`,
    replace: "",
  },
  {
    name: "the closed generations' writes are not sent on the bitmaps rung",
    file: "protocol/source-negotiation.ts",
    find: `sinceOf(copy.generation)?.[vbd]?.clone()`,
    replace: `sinceOf(copy.generation) && new BlockBitmap(blockCounts[vbd]!)`,
  },
  {
    name: "digests of an earlier climb are compared",
    file: "protocol/source-negotiation.ts",
    find: `      if (event.attempt !== attempt) return [state, []];
      state.descents`,
    replace: `      state.descents`,
  },
  {
    name: "a block that was written again is sent while its copy is on the way",
    file: "protocol/block-sender.ts",
    find: `this.#onTheWay[vbd]!.next(run.start) ?? run.start + run.count`,
    replace: `run.start + run.count`,
    survives: "rarer than so many seeds: two copies, a slow disk, one order; block-sender.test.ts says it",
  },
];

const destination: readonly Mutant[] = [
  {
    name: "a restored record's phase gets into the next record",
    file: "protocol/destination.ts",
    find: `begun: begunOf(record), reception: undefined`,
    replace: `begun: record, reception: undefined`,
  },
  {
    name: "the domain runs before the host durably owns it",
    file: "protocol/destination-postcopy.ts",
    find: `    { type: "persist", record: { phase: "owner", source, ...begun } },
    { type: "resume-domain", generation: begun.generation + 1 },`,
    replace: `    { type: "resume-domain", generation: begun.generation + 1 },
    { type: "persist", record: { phase: "owner", source, ...begun } },`,
  },
  {
    name: "`prepared` is sent before it is durable",
    file: "protocol/destination.ts",
    find: `[{ type: "persist", record: { phase: "prepared", source, ...begun } }, ...effects]`,
    replace: `[...effects, { type: "persist", record: { phase: "prepared", source, ...begun } }]`,
  },
  {
    name: "`prepared` is sent before the memory is loaded",
    file: "protocol/destination.ts",
    find: `  if (state.load !== "done" || !state.isDurable) return [state, []];`,
    replace: `  if (!state.isDurable) return [state, []];`,
  },
  {
    name: "`prepared` is sent before the blocks are durable",
    file: "protocol/destination.ts",
    find: `  if (state.load !== "done" || !state.isDurable) return [state, []];`,
    replace: `  if (state.load !== "done") return [state, []];`,
  },
  {
    name: "a session is accepted while blocks of the last one are being stored",
    file: "protocol/destination-postcopy.ts",
    find: `  if (reception.answersOpen > 0) {`,
    replace: `  if (reception.answersOpen < 0) {`,
  },
  {
    name: "a destination speaks before the session has begun",
    file: "protocol/destination.ts",
    find: `next.link === "up" ? effects : []`,
    replace: `effects`,
    survives: "the driver lets a machine speak on a session only from its first message on",
  },
  {
    name: "memory that was asked for twice is made ready twice",
    file: "protocol/destination.ts",
    find: `  if (memory?.attempt === attempt) {`,
    replace: `  if (memory?.attempt === -1) {`,
    survives: "the driver drops the answer of memory that was discarded",
  },
  {
    name: "a pull overtakes `resumed`",
    file: "protocol/destination-postcopy.ts",
    find: `      if (link === "reporting") return [{ ...state, pulls: [...state.pulls, { vbd, runs }] }, []];
      return [state, link === "up" ?`,
    replace: `      return [state, link !== "lost" ?`,
  },
  {
    name: "`nothing-missing` is forgotten while the domain resumes",
    file: "protocol/destination-postcopy.ts",
    find: `return [{ ...state, isNothingMissing: true }, []];`,
    replace: `return [state, []];`,
    survives: "the next report of what is missing says so too, a session later at worst",
  },
  {
    name: "a flush that failed is not tried again",
    file: "protocol/destination-postcopy.ts",
    find: `  return blocks.every(({ population }) => population === 0) ? flush(next, effects) : [next, effects];`,
    replace: `  return [next, effects];`,
  },
  {
    name: "`synchronised` is sent without a flush",
    file: "protocol/destination-postcopy.ts",
    find: `  return [{ ...state, isFlushing: true }, [...effects, { type: "flush" }]];`,
    replace: `  return [
    { phase: "completed", begun: state.begun, counts: { pushed: 0, pulled: 0, superseded: 0, late: 0 } },
    [...effects, synchronised({ pushed: 0, pulled: 0, superseded: 0, late: 0 })],
  ];`,
  },
  {
    name: "a prepared destination forgets at a restart",
    file: "protocol/destination.ts",
    find: `      return [{ phase: "prepared", begun: begunOf(record), reception: undefined }, []];`,
    replace: `      return [{ phase: "idle" }, [{ type: "discard-memory" }, { type: "close-copies" }, { type: "forget" }]];`,
  },
  {
    name: "a record outlives the answer that lets the source forget",
    file: "protocol/destination-postcopy.ts",
    find: `      return [state, [{ type: "forget" }, send({ type: "aborted", migration })]];`,
    replace: `      return [state, [send({ type: "aborted", migration }), { type: "forget" }]];`,
    survives: "rarer than so many seeds: a death between an answer and a note; destination.test.ts says it",
  },
];

const stores: readonly Mutant[] = [
  {
    name: "a write is not marked in the round",
    file: "storage/tracked-block-store.ts",
    find: `    if (this.#round === undefined || count === 0) return;
`,
    replace: `    if (this.#round === undefined || count >= 0) return;
`,
  },
  {
    name: "a write is marked before it lands",
    file: "storage/tracked-block-store.ts",
    find: `      await covered;
      await issue();
    } finally {
      this.#mark(start, count);`,
    replace: `      await covered;
      this.#mark(start, count);
      await issue();
    } finally {`,
  },
  {
    name: "a fence does not wait for writes in flight",
    file: "storage/tracked-block-store.ts",
    find: `    if (this.#inFlight === 0) return Promise.resolve();
`,
    replace: `    if (this.#inFlight >= 0) return Promise.resolve();
`,
    survives: "the domain is frozen before the fence, and a frozen domain has no writes in flight",
  },
  {
    name: "a write is issued before its intent is durable",
    file: "storage/tracked-block-store.ts",
    find: `      await covered;
`,
    replace: `      void covered;
`,
  },
  {
    name: "a late block is stored",
    file: "storage/missing-block-store.ts",
    find: `      const missing = this.#missing.nextRun(at, end - at);`,
    replace: `      const missing = { start: at, count: end - at };`,
  },
  {
    name: "an arriving block does not wait for a superseding write",
    file: "storage/missing-block-store.ts",
    find: `    const write = this.#superseding.first(run);`,
    replace: `    const write = undefined as ReturnType<BlockRangeLocks["first"]>;`,
  },
  {
    name: "a superseding write does not wait for an arriving block",
    file: "storage/missing-block-store.ts",
    find: `    return this.#arriving.released(covered);`,
    replace: `    return undefined;`,
  },
  {
    name: "a write of a part of a missing block does not pull it first",
    file: "storage/missing-block-store.ts",
    find: `    if (wanted.length > 0) return`,
    replace: `    if (wanted.length > 99) return`,
  },
  {
    name: "a read does not wait for missing blocks",
    file: "storage/missing-block-store.ts",
    find: `    await this.#waits.wait(this.#missingRuns(touched));
`,
    replace: "",
  },
  {
    name: "a trimmed missing block keeps the replica's content",
    file: "storage/missing-block-store.ts",
    find: `    return this.writeZeroes(start, end - start, { mayUnmap: true });`,
    replace: `    return this.#supersede("trim", start, end - start, () => this.#store.trim(start, end - start));`,
  },
  {
    name: "a flush does not make presence durable",
    file: "storage/missing-block-store.ts",
    find: `    if (!this.#presence.flushNeeded && this.#flushesRunning === 0) return this.#store.flush();`,
    replace: `    if (this.#flushesRunning === 0) return this.#store.flush();`,
  },
  {
    name: "presence becomes durable before the data",
    file: "storage/presence-log.ts",
    find: `      await flushData();
`,
    replace: "",
  },
  {
    name: "presence of another boot is believed",
    file: "storage/presence-log.ts",
    find: `if (header.bootId === options.bootId) {`,
    replace: `if (header.bootId !== "") {`,
  },
  {
    name: "a block is present in memory before it is in the log",
    file: "storage/presence-log.ts",
    find: `    this.#volatile.storeRun(run, false, (block) => this.#missing.has(block));
`,
    replace: "",
  },
  {
    name: "the activity of another boot is ignored",
    file: "storage/dirty-log.ts",
    find: `if (header.state === "open" && header.bootId !== this.#bootId) {`,
    replace: `if (header.state === "open" && header.bootId === "") {`,
  },
  {
    name: "a region counts as active before it is durable",
    file: "storage/dirty-log.ts",
    find: `        this.#activity.store(this.#generation);
        await this.#sync.request();
        for`,
    replace: `        this.#activity.store(this.#generation);
        for`,
  },
  {
    name: "a region leaves before its bits are durable",
    file: "storage/dirty-log.ts",
    find: `if (leaving.some(([, { lastSet }]) => lastSet > this.#setCountDurable)) await this.#sync.request();`,
    replace: "",
    survives: "the sync of the regions that come makes those bits durable, too, but for an instant",
  },
  {
    name: "generations that a replica tells apart are merged",
    file: "protocol/generation-log.ts",
    find: `if (generations.has(entry.first - 1)) groups.push([entry]);`,
    replace: `if (groups.length === 0) groups.push([entry]);`,
  },
];

export const MUTANTS: readonly Mutant[] = [...source, ...destination, ...stores];
