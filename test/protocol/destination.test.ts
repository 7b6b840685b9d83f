/** The destination's half of PROTOCOL.md, a sentence a test. */
import { describe, expect, it } from "vitest";
import { restore } from "../../protocol/destination.ts";
import { ProtocolError } from "../../protocol/errors.ts";
import { BEGUN, blocks, COUNTS, DestinationStory } from "./destination-story.ts";

describe("destination: idle", () => {
  it("answers what it does not know with aborted", () => {
    const story = new DestinationStory();
    story.receives({ type: "abort", migration: "m0", reason: "?" });
    expect(story.effects).toEqual([{ type: "send", message: { type: "aborted", migration: "m0" } }]);
    story.receives({ type: "handover", migration: "m0", generation: 5 });
    expect(story.names).toEqual(["send aborted"]);
    story.receives({ type: "finished", migration: "m0" });
    expect(story.names).toEqual(["send aborted"]);
  });

  it("examines before it says anything, and changes nothing for it", () => {
    const story = new DestinationStory().toExamining();
    expect(story.names).toEqual(["examine"]);
  });

  it("rejects another version by name", () => {
    const begin = {
      type: "begin",
      version: 9,
      migration: "m1",
      generation: 4,
      domain: BEGUN.domain,
      dataBytes: 0,
    } as const;
    expect(() => new DestinationStory().receives(begin)).toThrowError(
      expect.objectContaining({ code: "PROTOCOL_VERSION_MISMATCH" }),
    );
  });

  it("rejects blocks of a migration that has not begun", () => {
    expect(() => new DestinationStory().receivesBlocks(1)).toThrowError(ProtocolError);
  });
});

describe("destination: examining", () => {
  it("says what it holds", () => {
    const story = new DestinationStory().toReceiving({ kind: "replica", generation: 2 });
    expect(story.effects).toMatchObject([
      { message: { type: "accept", session: "s1", copies: [{ kind: "replica", generation: 2 }] } },
    ]);
  });

  it("refuses without a trace in the journal", () => {
    const story = new DestinationStory().toExamining();
    story.on({ type: "refused", code: "DOMAIN_IS_HERE", reason: "it is here" });
    expect(story.names).toEqual(["send refuse"]);
  });

  it("does not answer a session that has not begun", () => {
    const story = new DestinationStory().toExamining();
    story.on({ type: "peer-lost" });
    story.on({ type: "examined", copies: [{ kind: "none" }] });
    expect(story.effects).toEqual([]);
    story.begins();
    expect(story.names).toEqual(["send accept"]);
  });

  it("answers once when the source begins again meanwhile", () => {
    const story = new DestinationStory().toExamining();
    story.on({ type: "peer-lost" });
    expect(story.begins()).toEqual([]);
    story.on({ type: "examined", copies: [{ kind: "none" }] });
    expect(story.names).toEqual(["send accept"]);
  });

  it("is not aborted by another migration's abort", () => {
    const story = new DestinationStory().toExamining();
    expect(() => story.receives({ type: "abort", migration: "m9", reason: "?" })).toThrowError(ProtocolError);
  });
});

describe("destination: receiving", () => {
  it("says in the journal that the copies are being written, before they are", () => {
    const story = new DestinationStory().toOpen();
    expect(story.names).toEqual(["persist", "open-copies"]);
    expect(story.persisted).toMatchObject([{ phase: "receiving", source: "A" }]);
  });

  it("opens its copies once, however often the ladder comes", () => {
    const story = new DestinationStory().toOpen();
    expect(story.receives({ type: "ladder", choices: [{ rung: "allocated", reason: "none" }] })).toEqual([]);
  });

  it("rejects blocks and questions before the ladder", () => {
    expect(() => new DestinationStory().toReceiving().receivesBlocks(1)).toThrowError(ProtocolError);
    const ask = { type: "ask-hashes", vbd: 0, level: "region", start: 0, count: 1 } as const;
    expect(() => new DestinationStory().toReceiving().receives(ask)).toThrowError(ProtocolError);
  });

  it("acknowledges blocks when they are stored", () => {
    const story = new DestinationStory().toOpen();
    story.receivesBlocks(1);
    expect(story.names).toEqual(["store-blocks"]);
    story.on({ type: "blocks-stored", ticket: 1 });
    expect(story.effects).toEqual([{ type: "send", message: { type: "stored", ticket: 1 } }]);
  });

  it("accepts a session only when nothing of the one before is on its way to the disk", () => {
    const story = new DestinationStory().toOpen();
    story.receivesBlocks(1);
    story.receivesBlocks(2);
    story.on({ type: "peer-lost" });
    expect(story.begins()).toEqual([]);
    expect(story.on({ type: "blocks-stored", ticket: 1 })).toEqual([]);
    story.on({ type: "blocks-stored", ticket: 2 });
    expect(story.names).toEqual(["send accept"]);
  });

  it("is silent from a lost link until the source begins again", () => {
    const story = new DestinationStory().toMemory();
    story.receivesBlocks(1);
    story.on({ type: "peer-lost" });
    expect(story.on({ type: "blocks-stored", ticket: 1 })).toEqual([]);
    expect(story.on({ type: "memory-taken", attempt: 1, offset: 10 })).toEqual([]);
    story.begins();
    expect(story.effects).toMatchObject([{ message: { type: "accept", memoryTaken: 10 } }]);
  });

  it("makes memory ready once, however often it is asked for", () => {
    const story = new DestinationStory().toOpen();
    story.receives({ type: "memory-begin", attempt: 1 });
    expect(story.names).toEqual(["begin-memory"]);
    expect(story.receives({ type: "memory-begin", attempt: 1 })).toEqual([]);
    story.on({ type: "memory-ready", attempt: 1 });
    expect(story.names).toEqual(["send memory-ready"]);
    story.receives({ type: "memory-begin", attempt: 1 });
    expect(story.names).toEqual(["send memory-ready"]);
  });

  it("discards the memory of an attempt when another begins", () => {
    const story = new DestinationStory().toMemory();
    story.receives({ type: "memory-begin", attempt: 2 });
    expect(story.names).toEqual(["discard-memory", "begin-memory"]);
    expect(story.on({ type: "memory-ready", attempt: 1 })).toEqual([]);
  });

  it("tells of taken memory only what is more than before", () => {
    const story = new DestinationStory().toMemory();
    story.on({ type: "memory-taken", attempt: 1, offset: 10 });
    expect(story.names).toEqual(["send memory-taken"]);
    expect(story.on({ type: "memory-taken", attempt: 1, offset: 5 })).toEqual([]);
  });

  it("rejects a prepare while blocks are on their way", () => {
    const story = new DestinationStory().toMemory();
    story.receivesBlocks(1);
    expect(() => story.prepares()).toThrowError(ProtocolError);
  });

  it("gives up what it cannot store, tidily, and says so", () => {
    const story = new DestinationStory().toMemory();
    story.on({ type: "failed", code: "STORAGE_FULL", reason: "full" });
    expect(story.names).toEqual(["discard-memory", "close-copies", "persist", "send failed"]);
    story.receives({ type: "abort", migration: "m1", reason: "full" });
    expect(story.names).toEqual(["forget", "send aborted"]);
  });

  it("forgets before it answers an abort", () => {
    const story = new DestinationStory().toMemory();
    story.receives({ type: "abort", migration: "m1", reason: "no" });
    expect(story.names).toEqual(["discard-memory", "close-copies", "persist", "forget", "send aborted"]);
  });

  it("forgets at a restart: the copies stay as bytes that nobody vouches for", () => {
    const story = DestinationStory.restored(restore({ phase: "receiving", source: "A", ...BEGUN }));
    expect(story.names).toEqual(["discard-memory", "close-copies", "forget"]);
    expect(story.state.phase).toBe("idle");
  });
});

describe("destination: loading", () => {
  it("persists its promise while the memory's tail is on its way, and sends it when that is loaded", () => {
    const story = new DestinationStory().toLoading();
    expect(story.names).toEqual(["make-durable"]);
    story.on({ type: "durable", attempt: 1 });
    expect(story.names).toEqual(["persist"]);
    expect(story.persisted).toMatchObject([{ phase: "prepared" }]);
    story.endsMemory();
    expect(story.effects).toEqual([{ type: "load", attempt: 1, memoryBytes: 100 }]);
    story.on({ type: "loaded", attempt: 1 });
    expect(story.names).toEqual(["send prepared"]);
  });

  it("persists its promise before sending it, when the memory was faster", () => {
    const story = new DestinationStory().toLoading();
    story.endsMemory();
    expect(story.on({ type: "loaded", attempt: 1 })).toEqual([]);
    story.on({ type: "durable", attempt: 1 });
    expect(story.names).toEqual(["persist", "send prepared"]);
  });

  it("takes back durably what it had persisted when the link is lost, before it receives another block", () => {
    const story = new DestinationStory().toLoading();
    story.on({ type: "durable", attempt: 1 });
    story.on({ type: "peer-lost" });
    story.begins();
    expect(story.names).toEqual(["persist", "send accept"]);
    expect(story.persisted).toMatchObject([{ phase: "receiving" }]);
    story.on({ type: "peer-lost" });
    story.begins();
    expect(story.names).toEqual(["send accept"]);
  });

  it("rejects a memory that ends twice, and the end of another", () => {
    const story = new DestinationStory().toLoading();
    expect(() => story.endsMemory(2)).toThrowError(ProtocolError);
    story.endsMemory();
    expect(() => story.endsMemory()).toThrowError(ProtocolError);
  });

  it("takes the log along that the source has shipped", () => {
    const story = new DestinationStory().toLoading();
    expect(story.effects).toMatchObject([{ generation: 4, replicas: [{ host: "C", generation: 2 }] }]);
  });

  it("goes back to receiving when the link is lost, and waits for what it was making durable", () => {
    const story = new DestinationStory().toLoading();
    story.on({ type: "peer-lost" });
    expect(story.state.phase).toBe("receiving");
    expect(story.begins()).toEqual([]);
    // An old `missing` written after a new one would count the wrong blocks as here.
    story.on({ type: "durable", attempt: 1 });
    expect(story.names).toEqual(["send accept"]);
  });

  it("is not loaded by the answer to an earlier prepare", () => {
    const story = new DestinationStory().toLoading();
    story.on({ type: "peer-lost" });
    story.on({ type: "durable", attempt: 1 });
    story.begins();
    story.prepares(2);
    story.endsMemory(2);
    story.on({ type: "loaded", attempt: 1 });
    story.on({ type: "durable", attempt: 2 });
    expect(story.state.phase).toBe("loading");
    story.on({ type: "loaded", attempt: 2 });
    expect(story.state.phase).toBe("prepared");
  });
});

describe("destination: prepared", () => {
  it("persists that it owns the domain before it lets it run", () => {
    const story = new DestinationStory().toResuming();
    expect(story.names).toEqual(["persist", "resume-domain"]);
    expect(story.persisted).toMatchObject([{ phase: "owner", generation: 4 }]);
    expect(story.effects[1]).toEqual({ type: "resume-domain", generation: 5 });
  });

  it("keeps waiting across a lost link and a restart", () => {
    const story = new DestinationStory().toPrepared();
    story.on({ type: "peer-lost" });
    expect(story.state.phase).toBe("prepared");
    const restarted = DestinationStory.restored(restore({ phase: "prepared", source: "A", ...BEGUN }));
    expect(restarted.effects).toEqual([]);
    restarted.handsOver();
    expect(restarted.names).toEqual(["persist", "resume-domain"]);
    // Not what the record said before: its phase must not get into this one.
    expect(restarted.persisted).toEqual([{ phase: "owner", source: "A", ...BEGUN }]);
  });

  it("rejects a handover of another generation", () => {
    const story = new DestinationStory().toPrepared();
    expect(() => story.receives({ type: "handover", migration: "m1", generation: 9 })).toThrowError(
      ProtocolError,
    );
  });

  it("takes its promise back durably when the source copies on", () => {
    const story = new DestinationStory().toPrepared();
    story.on({ type: "peer-lost" });
    story.begins();
    expect(story.names).toEqual(["persist", "send accept"]);
    expect(story.persisted).toMatchObject([{ phase: "receiving" }]);
  });

  it("examines anew when the source copies on after a restart here", () => {
    const story = DestinationStory.restored(restore({ phase: "prepared", source: "A", ...BEGUN }));
    story.begins();
    expect(story.names).toEqual(["discard-memory", "close-copies", "persist", "examine"]);
  });

  it("drops the link when its promise could not be made durable: the source thaws", () => {
    const story = new DestinationStory().toPrepared();
    story.on({ type: "failed", code: "X", reason: "no journal" });
    expect(story.names).toEqual(["drop-link"]);
    expect(story.state.phase).toBe("prepared");
  });

  it("tidies up before it forgets", () => {
    const story = new DestinationStory().toPrepared();
    story.receives({ type: "abort", migration: "m1", reason: "no" });
    expect(story.names).toEqual(["discard-memory", "close-copies", "persist", "forget", "send aborted"]);
  });
});

describe("destination: resuming", () => {
  it("runs the domain after a restart, and waits for the source to ask", () => {
    const story = DestinationStory.restored(restore({ phase: "owner", source: "A", ...BEGUN }));
    expect(story.effects).toEqual([{ type: "resume-domain", generation: 5 }]);
    expect(story.on({ type: "domain-resumed" })).toEqual([]);
    story.handsOver();
    expect(story.names).toEqual(["report-missing"]);
  });

  it("does not forget that the last missing block came before the answer that the domain runs", () => {
    const story = new DestinationStory().toResuming();
    story.on({ type: "nothing-missing" });
    story.on({ type: "domain-resumed" });
    expect(story.names).toEqual(["report-missing", "flush"]);
  });

  it("keeps the domain when it does not run, and tries again in the source's next session, durable first", () => {
    const story = new DestinationStory().toResuming();
    story.on({ type: "failed", code: "X", reason: "no memory" });
    expect(story.names).toEqual(["drop-link"]);
    expect(story.state).toMatchObject({ phase: "resuming", problem: "no memory" });
    story.on({ type: "peer-lost" });
    story.handsOver();
    expect(story.names).toEqual(["persist", "resume-domain"]);
  });
});

describe("destination: post-copy", () => {
  it("says that the domain runs, and what is missing", () => {
    const story = new DestinationStory().toPostCopy();
    expect(story.effects).toMatchObject([{ message: { type: "resumed" } }]);
  });

  it("pulls no block before the source knows that the domain runs", () => {
    const story = new DestinationStory().toReporting();
    expect(story.on({ type: "need-blocks", vbd: 0, runs: [{ start: 7, count: 1 }] })).toEqual([]);
    story.on({ type: "missing", blocks: [blocks(7)] });
    expect(story.names).toEqual(["send resumed", "send pull"]);
  });

  it("is silent from a lost link until the source hands over again", () => {
    const story = new DestinationStory().toPostCopy();
    story.on({ type: "peer-lost" });
    expect(story.on({ type: "need-blocks", vbd: 0, runs: [{ start: 7, count: 1 }] })).toEqual([]);
    expect(story.on({ type: "blocks-stored", ticket: 1 })).toEqual([]);
    story.handsOver();
    expect(story.names).toEqual(["report-missing"]);
  });

  it("says once per session what is missing", () => {
    const story = new DestinationStory().toReporting();
    story.on({ type: "peer-lost" });
    story.handsOver();
    story.on({ type: "missing", blocks: [blocks(7)] });
    expect(story.names).toEqual(["send resumed"]);
    expect(story.on({ type: "missing", blocks: [blocks(7)] })).toEqual([]);
  });

  it("rejects blocks of pre-copy", () => {
    expect(() => new DestinationStory().toPostCopy().receivesBlocks(1, "precopy")).toThrowError(
      ProtocolError,
    );
  });

  it("tries a flush again that failed, when the source hands over again", () => {
    const story = new DestinationStory().toPostCopy();
    story.on({ type: "nothing-missing" });
    expect(story.names).toEqual(["flush"]);
    story.on({ type: "failed", code: "STORAGE_IO", reason: "EIO" });
    expect(story.names).toEqual(["drop-link"]);
    story.on({ type: "peer-lost" });
    story.handsOver();
    story.on({ type: "missing", blocks: [blocks()] });
    expect(story.names).toEqual(["send resumed", "flush"]);
  });

  it("persists that it is synchronised before saying so", () => {
    const story = new DestinationStory().toCompleted();
    expect(story.names).toEqual(["persist", "send synchronised"]);
    expect(story.persisted).toEqual([{ phase: "synchronised", source: "A", ...BEGUN, counts: COUNTS }]);
  });
});

describe("destination: completed", () => {
  it("says again that it is synchronised, durably, when the source hands over again", () => {
    const story = new DestinationStory().toCompleted();
    story.on({ type: "peer-lost" });
    story.handsOver();
    expect(story.names).toEqual(["persist", "send synchronised"]);
  });

  it("acknowledges late blocks", () => {
    const story = new DestinationStory().toCompleted();
    story.receivesBlocks(3, "push");
    expect(story.effects).toEqual([{ type: "send", message: { type: "stored", ticket: 3 } }]);
  });

  it("forgets before it answers `finished`", () => {
    const story = new DestinationStory().toCompleted();
    story.receives({ type: "finished", migration: "m1" });
    expect(story.names).toEqual(["forget", "send aborted"]);
  });

  it("remembers across a restart", () => {
    const record = { phase: "synchronised", source: "A", ...BEGUN, counts: COUNTS } as const;
    const story = DestinationStory.restored(restore(record));
    story.handsOver();
    expect(story.persisted).toEqual([record]);
    expect(story.effects[1]).toEqual({ type: "send", message: { type: "synchronised", counts: COUNTS } });
  });
});

describe("destination: aborted", () => {
  it("tells a source that begins again why", () => {
    const story = DestinationStory.restored(restore({ phase: "aborted", migration: "m1", reason: "full" }));
    story.begins();
    expect(story.effects).toMatchObject([
      { message: { type: "failed", code: "MIGRATION_ABORTED", reason: "full" } },
    ]);
  });

  it("drops the link when that could not be written down, so that the source asks again", () => {
    const story = new DestinationStory().toMemory();
    story.on({ type: "failed", code: "STORAGE_FULL", reason: "full" });
    story.on({ type: "failed", code: "X", reason: "no journal" });
    expect(story.names).toEqual(["drop-link"]);
  });
});
