/** The source's half of PROTOCOL.md, a sentence a test. */
import { describe, expect, it } from "vitest";
import { ProtocolError } from "../../protocol/errors.ts";
import { isBeforeHandover, restore } from "../../protocol/source.ts";
import { blocks, COUNTS, SourceStory } from "./source-story.ts";

describe("source: negotiating", () => {
  it("persists that it has begun before anything is visible", () => {
    const story = new SourceStory();
    expect(story.names).toEqual(["persist"]);
    expect(story.persisted).toMatchObject([
      { phase: "begun", migration: "m1", destination: "B", generation: 4 },
    ]);
    story.on({ type: "connected" });
    expect(story.names).toEqual(["send begin"]);
  });

  it("arms its rounds before the first block or digest is read", () => {
    const story = new SourceStory();
    story.on({ type: "connected" });
    story.accepted();
    expect(story.names).toEqual(["start-tracking"]);
  });

  it("rejects another version by name", () => {
    const story = new SourceStory();
    story.on({ type: "connected" });
    const accept = {
      type: "accept",
      version: 9,
      session: "s",
      copies: [{ kind: "none" }],
      memoryTaken: 0,
    } as const;
    expect(() => story.receives(accept)).toThrowError(
      expect.objectContaining({ code: "PROTOCOL_VERSION_MISMATCH" }),
    );
  });

  it("rejects an accept that does not speak of every vbd", () => {
    const story = new SourceStory();
    story.on({ type: "connected" });
    const accept = { type: "accept", version: 1, session: "s", copies: [], memoryTaken: 0 } as const;
    expect(() => story.receives(accept)).toThrowError(ProtocolError);
  });

  it("aborts when the destination refuses", () => {
    const story = new SourceStory();
    story.on({ type: "connected" });
    story.receives({ type: "refuse", code: "HOST_IS_BUSY", reason: "busy" });
    expect(story.state).toMatchObject({ phase: "aborting", reason: "HOST_IS_BUSY: busy" });
    expect(story.names).toEqual(["persist", "send abort"]);
  });
});

describe("source: reconciling", () => {
  it("sends to a replica what was written since, and nothing else", () => {
    const story = new SourceStory().toPreCopy(blocks(5));
    expect(story.handedOut).toEqual([2, 5]);
    expect(story.sent).toEqual(["ladder"]);
  });

  it("announces the ladder before the first block", () => {
    const story = new SourceStory().toPreCopy();
    expect(story.names).toEqual(["send ladder", "send-blocks"]);
  });

  it("compares digests when the tracker cannot be trusted", () => {
    const story = new SourceStory();
    story.on({ type: "connected" });
    story.accepted();
    story.on({
      type: "tracking",
      attempt: 1,
      atMs: 0,
      vbds: [{ written: blocks(), untrusted: "it died with its host" }],
    });
    expect(story.names).toEqual(["send ladder", "send ask-hashes"]);
    expect(story.state.phase).toBe("reconciling");
  });

  it("sends everything when nobody can tell what is allocated", () => {
    const story = new SourceStory({ inFlightBlocksMax: 100 });
    story.on({ type: "connected" });
    story.accepted({ kind: "none" });
    story.on({ type: "tracking", attempt: 1, atMs: 0, vbds: [{ written: blocks() }] });
    expect(story.names).toContain("scan-allocated");
    story.on({ type: "allocated", attempt: 1, vbd: 0, blocks: undefined });
    expect(story.handedOut).toHaveLength(16);
  });

  it("rejects digests that nobody asked for", () => {
    const story = new SourceStory();
    story.on({ type: "connected" });
    story.accepted({ kind: "unknown", reason: "?" });
    story.on({ type: "tracking", attempt: 1, atMs: 0, vbds: [{ written: blocks() }] });
    const hashes = { type: "hashes", vbd: 0, level: "block", start: 0, digests: new Uint8Array(16) } as const;
    expect(() => story.receives(hashes)).toThrowError(ProtocolError);
  });

  it("does not climb by answers to an earlier climb", () => {
    const story = new SourceStory();
    story.on({ type: "connected" });
    story.accepted();
    story.reconnects();
    story.accepted();
    expect(story.effects).toEqual([{ type: "start-tracking", attempt: 2 }]);
    // The rounds that this one armed are gone: what was written since would be lost.
    story.on({ type: "tracking", attempt: 1, atMs: 0, vbds: [{ written: blocks() }] });
    expect(story.state).toMatchObject({ phase: "reconciling", trip: undefined });
    story.on({ type: "tracking", attempt: 2, atMs: 0, vbds: [{ written: blocks(5, 6) }] });
    expect(story.handedOut).toEqual([2, 5, 6]);
  });

  it("takes neither an allocation nor a comparison of an earlier climb", () => {
    const story = new SourceStory();
    story.on({ type: "connected" });
    story.accepted({ kind: "unknown", reason: "?" });
    story.on({ type: "tracking", attempt: 1, atMs: 0, vbds: [{ written: blocks() }] });
    story.reconnects();
    story.accepted({ kind: "unknown", reason: "?" });
    story.on({ type: "tracking", attempt: 2, atMs: 0, vbds: [{ written: blocks() }] });
    story.on({ type: "compared", attempt: 1, vbd: 0, level: "region", start: 0, count: 1, differing: [] });
    expect(story.state.phase).toBe("reconciling");
    story.on({ type: "compared", attempt: 2, vbd: 0, level: "region", start: 0, count: 1, differing: [] });
    expect(story.state.phase).toBe("pre-copy");
  });
});

describe("source: pre-copy", () => {
  it("keeps at most inFlightBlocksMax blocks on their way", () => {
    const story = new SourceStory({ inFlightBlocksMax: 3 }).toPreCopy(blocks(4, 6, 8, 10, 12));
    expect(story.handedOut).toEqual([2, 4, 6]);
    story.storeAll();
    expect(story.handedOut).toEqual([8, 10, 12]);
  });

  it("sends again what the guest wrote after it was sent", () => {
    const story = new SourceStory().toPreCopy(blocks(5, 6, 7, 8));
    story.storeAll();
    expect(story.names).toEqual(["collect-dirty"]);
    story.dirty(5);
    expect(story.handedOut).toEqual([5]);
  });

  it("rejects a `stored` for nothing that is on its way", () => {
    const story = new SourceStory().toPreCopy();
    expect(() => story.receives({ type: "stored", ticket: 99 })).toThrowError(ProtocolError);
  });

  it("goes on where it was when the destination names the same session", () => {
    const story = new SourceStory().toPreCopy(blocks(5));
    story.reconnects();
    expect(story.sent).toEqual(["begin"]);
    story.accepted();
    // The first ladder may have been lost with the link, and what was not acknowledged, too.
    expect(story.names).toEqual(["send ladder", "send-blocks"]);
    expect(story.handedOut).toEqual([2, 5]);
  });

  it("starts anew when the destination has lost its volatile state", () => {
    const story = new SourceStory().toPreCopy(blocks(5));
    story.storeAll();
    story.reconnects();
    story.accepted({ kind: "unknown", reason: "cut short" }, { session: "s2" });
    expect(story.effects).toEqual([{ type: "stop-tracking" }, { type: "start-tracking", attempt: 2 }]);
  });

  it("is not confused by a round that was collected before it started anew", () => {
    const story = new SourceStory().toPreCopy(blocks(5));
    story.storeAll();
    story.reconnects();
    story.accepted(undefined, { session: "s2" });
    story.on({ type: "tracking", attempt: 2, atMs: 0, vbds: [{ written: blocks(5) }] });
    expect(story.handedOut).toEqual([2, 5]);
    story.on({ type: "dirty", attempt: 1, atMs: 1, blocks: [blocks(9)] });
    expect(story.state).toMatchObject({ phase: "pre-copy", trip: { roundsOpen: 0 } });
  });

  it("aborts when the operator cancels", () => {
    const story = new SourceStory().toPreCopy();
    story.on({ type: "cancel", reason: "no" });
    expect(story.names).toEqual(["stop-tracking", "persist", "send abort"]);
  });
});

describe("source: memory-copy", () => {
  it("ships the log with memory-begin, also after a lost link", () => {
    const story = new SourceStory().toMemoryCopy();
    expect(story.sent).toEqual(["log", "memory-begin"]);
    story.reconnects();
    story.accepted();
    expect(story.sent).toEqual(["ladder", "log", "memory-begin"]);
  });

  it("goes on with the memory stream where the destination stopped taking it, and forgets what it took", () => {
    const story = new SourceStory().toMemoryCopy();
    story.receives({ type: "memory-ready", attempt: 1 });
    expect(story.effects).toEqual([{ type: "begin-memory", attempt: 1 }]);
    story.reconnects();
    story.accepted(undefined, { memoryTaken: 42 });
    expect(story.effects.filter(({ type }) => type !== "send")).toEqual([
      { type: "forget-memory", offset: 42 },
      { type: "resume-memory", attempt: 1, offset: 42 },
      // The disk is quiet, but memory has not converged: no round.
    ]);
  });

  it("freezes only when memory has converged and no block and no round is on its way", () => {
    const story = new SourceStory().toMemoryCopy();
    story.receives({ type: "memory-ready", attempt: 1 });
    story.on({ type: "memory-round", attempt: 1, converged: false });
    story.dirty();
    expect(story.state.phase).toBe("memory-copy");
    story.on({ type: "memory-round", attempt: 1, converged: true });
    expect(story.names).toEqual(["collect-dirty"]);
    story.dirty();
    expect(story.effects).toEqual([{ type: "freeze-domain", attempt: 1 }]);
  });

  it("sends blocks while memory has not converged, however few", () => {
    const story = new SourceStory({ remainingBlocksToFreeze: 8 }).toMemoryCopy();
    story.receives({ type: "memory-ready", attempt: 1 });
    story.on({ type: "memory-round", attempt: 1, converged: false });
    story.dirty(9);
    expect(story.handedOut).toEqual([9]);
  });

  it("ignores rounds of another memory stream", () => {
    const story = new SourceStory().toMemoryCopy();
    story.on({ type: "memory-round", attempt: 7, converged: true });
    expect(story.state).toMatchObject({ memory: { converged: false } });
  });

  it("slows the domain's writes once when they outrun the link, and goes on", () => {
    const story = new SourceStory({ writeSlowdownMax: 0.5, hotSendsMax: 9 }).toMemoryCopy();
    story.receives({ type: "memory-ready", attempt: 1 });
    story.on({ type: "memory-round", attempt: 1, converged: true });
    story.dirty(5, 6);
    expect(story.handedOut).toEqual([6, 5]);
    story.storeAll();
    story.dirty(5, 6);
    expect(story.effects).toContainEqual({ type: "throttle-writes", share: 0.5 });
    expect(story.state.phase).toBe("memory-copy");
    story.storeAll();
    story.dirty(5, 6);
    expect(story.names).toEqual(["freeze-domain"]);
  });

  it("leaves hot blocks for post-copy", () => {
    const story = new SourceStory({ hotSendsMax: 1 }).toMemoryCopy();
    story.receives({ type: "memory-ready", attempt: 1 });
    story.on({ type: "memory-round", attempt: 1, converged: true });
    story.dirty(5);
    expect(story.handedOut).toEqual([]);
    expect(story.state.phase).toBe("freezing");
    story.on({ type: "domain-frozen", attempt: 1 });
    story.on({ type: "fenced", attempt: 1, dirty: [blocks()], written: [blocks(5)] });
    expect(missingOf(story)).toEqual([5]);
  });
});

describe("source: freezing", () => {
  it("fences the vbds only when the domain is frozen", () => {
    const story = new SourceStory().toFreezing();
    expect(story.names).toEqual(["freeze-domain"]);
    story.on({ type: "domain-frozen", attempt: 1 });
    expect(story.effects).toEqual([{ type: "fence", attempt: 1 }]);
  });

  it("prepares as soon as the vbds are fenced, and says afterwards when the memory has ended", () => {
    const story = new SourceStory().toFreezing();
    story.on({ type: "domain-frozen", attempt: 1 });
    story.on({ type: "fenced", attempt: 1, dirty: [blocks(7)], written: [blocks(5, 7)] });
    expect(story.sent).toEqual(["prepare"]);
    expect(missingOf(story)).toEqual([7]);
    story.on({ type: "memory-ended", attempt: 1, memoryBytes: 100 });
    expect(story.effects).toMatchObject([
      { message: { type: "memory-ended", attempt: 1, memoryBytes: 100 } },
    ]);
  });

  it("names the memory's length after what it prepares, when its tail was faster than the fence", () => {
    const story = new SourceStory().toFreezing();
    story.on({ type: "domain-frozen", attempt: 1 });
    expect(story.on({ type: "memory-ended", attempt: 1, memoryBytes: 100 })).toEqual([]);
    story.on({ type: "fenced", attempt: 1, dirty: [blocks(7)], written: [blocks(5, 7)] });
    expect(story.sent).toEqual(["prepare", "memory-ended"]);
  });

  it("thaws the domain at once when the link is lost while it is frozen", () => {
    const story = new SourceStory().toFreezing();
    story.on({ type: "peer-lost" });
    expect(story.names).toEqual(["unfence", "thaw-domain"]);
    expect(story.state).toMatchObject({ phase: "memory-copy", link: "down", memory: { converged: false } });
  });

  it("does not lose the round of a fence that was undone", () => {
    const story = new SourceStory().toFreezing();
    story.on({ type: "domain-frozen", attempt: 1 });
    story.reconnects();
    story.accepted();
    story.on({ type: "memory-round", attempt: 1, converged: true });
    // No other freeze, and no other round, while the fence has not answered.
    expect(story.effects).toEqual([]);
    story.on({ type: "fenced", attempt: 1, dirty: [blocks(11)], written: [blocks(11)] });
    expect(story.handedOut).toEqual([11]);
  });

  it("ignores the answers to an earlier freeze", () => {
    const story = new SourceStory().toFreezing();
    story.reconnects();
    story.accepted();
    story.on({ type: "memory-round", attempt: 1, converged: true });
    story.dirty();
    expect(story.effects).toEqual([{ type: "freeze-domain", attempt: 2 }]);
    story.on({ type: "domain-frozen", attempt: 1 });
    story.on({ type: "memory-ended", attempt: 1, memoryBytes: 1 });
    expect(story.effects).toEqual([]);
    story.freezes({ attempt: 2 });
    expect(story.effects).toMatchObject([
      { message: { type: "memory-ended", attempt: 2, memoryBytes: 100 } },
    ]);
  });

  it("unfreezes the domain when the operator cancels, before anything else", () => {
    const story = new SourceStory().toFreezing();
    story.on({ type: "cancel", reason: "no" });
    expect(story.names).toEqual([
      "unfence",
      "unfreeze-domain",
      "cancel-memory",
      "stop-tracking",
      "persist",
      "send abort",
    ]);
  });

  it("takes a second memory-ready for what it is", () => {
    const story = new SourceStory().toFreezing();
    expect(story.receives({ type: "memory-ready", attempt: 1 })).toEqual([]);
  });
});

describe("source: preparing", () => {
  it("takes no promise of a memory that has not left yet, and no end of an earlier one", () => {
    const story = new SourceStory().toFreezing();
    story.on({ type: "domain-frozen", attempt: 1 });
    story.on({ type: "fenced", attempt: 1, dirty: [blocks()], written: [blocks()] });
    expect(story.on({ type: "memory-ended", attempt: 0, memoryBytes: 1 })).toEqual([]);
    expect(() => story.receives({ type: "prepared" })).toThrowError(ProtocolError);
  });

  it("persists the handover before sending it", () => {
    const story = new SourceStory().toPreparing();
    story.receives({ type: "prepared" });
    expect(story.names).toEqual(["persist", "send handover"]);
    expect(story.persisted).toMatchObject([{ phase: "handed-over", generation: 4 }]);
    expect(story.effects).toMatchObject([{}, { message: { type: "handover", generation: 5 } }]);
  });

  it("thaws the domain when the link is lost, and sends again what prepare had named as missing", () => {
    const story = new SourceStory().toPreparing(blocks(7));
    story.on({ type: "peer-lost" });
    expect(story.names).toEqual(["unfence", "thaw-domain"]);
    story.on({ type: "connected" });
    story.accepted();
    expect(story.handedOut).toEqual([7]);
  });

  it("aborts when the destination fails", () => {
    const story = new SourceStory().toPreparing();
    story.receives({ type: "failed", code: "STORAGE_FULL", reason: "full" });
    expect(story.state.phase).toBe("aborting");
    expect(story.names.slice(0, 2)).toEqual(["unfence", "unfreeze-domain"]);
  });
});

describe("source: handing-over", () => {
  const harmful = ["unfence", "thaw-domain", "unfreeze-domain"];

  it("never unfreezes after the handover", () => {
    const events = [
      { type: "peer-lost" },
      { type: "cancel", reason: "no" },
      { type: "failed", reason: "no" },
      { type: "received", message: { type: "aborted", migration: "m1" } },
      { type: "connected" },
    ] as const;
    for (const event of events) {
      const story = new SourceStory().toHandingOver();
      expect(isBeforeHandover(story.state)).toBe(false);
      story.on(event);
      expect(story.names.filter((name) => harmful.includes(name))).toEqual([]);
      expect(story.state.phase).toBe("handing-over");
    }
  });

  it("makes the handover durable again before it repeats it: the first time may have failed", () => {
    const story = new SourceStory().toHandingOver();
    story.reconnects();
    expect(story.names).toEqual(["persist", "send handover"]);
  });

  it("destroys the remains when the domain runs at the destination", () => {
    const story = new SourceStory().toPostCopy(blocks(7));
    expect(story.names[0]).toBe("destroy-remains");
    expect(story.handedOut).toEqual([7]);
  });

  it("destroys the remains when `resumed` was lost and nothing is missing any more", () => {
    const story = new SourceStory().toHandingOver();
    story.receives({ type: "synchronised", counts: COUNTS });
    expect(story.names[0]).toBe("destroy-remains");
  });

  it("goes on after a restart", () => {
    const record = { phase: "handed-over", migration: "m1", destination: "B", generation: 4 } as const;
    const story = SourceStory.restored(restore(record));
    expect(story.effects).toEqual([]);
    story.on({ type: "connected" });
    expect(story.names).toEqual(["persist", "send handover"]);
  });
});

describe("source: post-copy", () => {
  it("sends a pulled block before any pushed block", () => {
    const story = new SourceStory({ inFlightBlocksMax: 2 }).toPostCopy(blocks(0, 1, 2, 3, 12));
    expect(story.handedOut).toEqual([0, 1]);
    story.receives({ type: "pull", vbd: 0, runs: [{ start: 12, count: 1 }] });
    expect(story.effects).toMatchObject([
      { type: "send-blocks", purpose: "pull", runs: [{ start: 12, count: 1 }] },
    ]);
  });

  it("sends no block twice in one session", () => {
    const story = new SourceStory().toPostCopy(blocks(7));
    story.receives({ type: "pull", vbd: 0, runs: [{ start: 7, count: 1 }] });
    expect(story.handedOut).toEqual([]);
  });

  it("believes only what the destination says it misses, after a lost link", () => {
    const story = new SourceStory().toPostCopy(blocks(0, 1, 2));
    story.reconnects();
    expect(story.handedOut).toEqual([]);
    story.receives({ type: "resumed", missing: [blocks(1)] });
    expect(story.handedOut).toEqual([1]);
  });

  it("is not angry at a `stored` of an earlier session", () => {
    const story = new SourceStory().toPostCopy(blocks(0));
    expect(story.receives({ type: "stored", ticket: 77 })).toEqual([]);
  });

  it("drops the link when a block cannot be read", () => {
    const story = new SourceStory().toPostCopy();
    expect(story.on({ type: "failed", reason: "EIO" })).toEqual([{ type: "drop-link", reason: "EIO" }]);
  });
});

describe("source: finishing", () => {
  it("keeps its vbds as a replica, durably, before it says that it knows", () => {
    const story = new SourceStory().toFinishing();
    expect(story.names).toEqual(["keep-replica", "persist", "send finished"]);
    expect(story.persisted).toMatchObject([{ phase: "completed" }]);
  });

  it("says so again after a lost link, but does not label the replica again", () => {
    const story = new SourceStory().toFinishing();
    story.reconnects();
    expect(story.names).toEqual(["persist", "send finished"]);
  });

  it("forgets only when the destination has forgotten", () => {
    const story = new SourceStory().toFinishing();
    story.receives({ type: "stored", ticket: 1 });
    expect(story.state.phase).toBe("finishing");
    story.receives({ type: "aborted", migration: "m1" });
    expect(story.names).toEqual(["forget"]);
    expect(story.state).toMatchObject({ phase: "completed", counts: COUNTS });
  });
});

describe("source: aborting", () => {
  it("runs the domain on after a restart, and tells the destination", () => {
    const record = { phase: "begun", migration: "m1", destination: "B", generation: 4 } as const;
    const story = SourceStory.restored(restore(record));
    expect(story.names).toEqual(["unfence", "unfreeze-domain", "persist"]);
    story.on({ type: "connected" });
    expect(story.sent).toEqual(["abort"]);
  });

  it("repeats itself until the destination has answered, and nothing else is an answer", () => {
    const story = new SourceStory().toPreCopy();
    story.on({ type: "cancel", reason: "no" });
    story.receives({ type: "stored", ticket: 1 });
    story.receives({ type: "failed", code: "X", reason: "y" });
    expect(story.state.phase).toBe("aborting");
    story.reconnects();
    expect(story.sent).toEqual(["abort"]);
    story.receives({ type: "aborted", migration: "m1" });
    expect(story.names).toEqual(["forget"]);
    expect(story.state.phase).toBe("aborted");
  });
});

function missingOf(story: SourceStory): number[] {
  const [effect] = story.effects;
  if (effect?.type !== "send" || effect.message.type !== "prepare") throw new Error("no prepare");
  return [...effect.message.missing[0]!];
}
