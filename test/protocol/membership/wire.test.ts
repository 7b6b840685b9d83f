import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { AssertionFailure, ProtocolError } from "../../../protocol/errors.ts";
import {
  ADDRESS_LENGTH_MAX,
  ADDRESSES_MAX,
  HOST_LENGTH_MAX,
  HOST_NAME_LENGTH_MAX,
  INCARNATION_MAX,
  MEMBERSHIP_MESSAGE_SIZE_MAX,
  STATE_PART_SIZE_MAX,
} from "../../../protocol/membership/limits.ts";
import type { MembershipMessage, Update } from "../../../protocol/membership/messages.ts";
import {
  accusationOctets,
  decodeMessage,
  encodeMessage,
  encodeUpdate,
  OPTIONAL,
  recordOctets,
} from "../../../protocol/membership/wire.ts";
import { alive, dead, left, recordOf, suspect } from "./machine.ts";

const LARGEST: Update = {
  ...suspect("h".repeat(HOST_LENGTH_MAX), INCARNATION_MAX, ..."abcdefgh"),
  record: recordOf("h".repeat(HOST_LENGTH_MAX), INCARNATION_MAX, {
    name: "€".repeat(HOST_NAME_LENGTH_MAX),
    addresses: Array.from({ length: ADDRESSES_MAX }, () => "€".repeat(ADDRESS_LENGTH_MAX)),
    freeBytes: Number.MAX_SAFE_INTEGER,
    domainCount: 1_000_000,
  }),
};

const UPDATES = [
  alive("a", 1),
  alive("ü", 0, { addresses: [], freeBytes: 0 }),
  left("b", 9),
  suspect("c", 3, "a", "b"),
  dead("d", 4, "a"),
  { ...suspect("e", 3, "a"), accusations: dead("e", 3, "a").accusations },
  LARGEST,
];

const MESSAGES: readonly MembershipMessage[] = [
  { type: "ping", sequence: 0, updates: [] },
  { type: "ping", sequence: 2 ** 32 - 1, updates: UPDATES },
  { type: "ack", sequence: 300, updates: UPDATES.slice(0, 2) },
  { type: "ping-request", sequence: 4, target: "12D3KooW", updates: UPDATES.slice(2) },
  { type: "nack", sequence: 5 },
  { type: "gossip", updates: UPDATES },
  { type: "compare", digest: [0, 2 ** 32 - 1] },
  { type: "state", updates: UPDATES, wantsAnswer: true },
  { type: "state", updates: [], wantsAnswer: false },
];

function codeOf(act: () => unknown): string {
  try {
    act();
  } catch (error) {
    if (error instanceof ProtocolError) return error.code;
    throw error;
  }
  throw new Error("nothing was thrown");
}

/** The message, with one update in octets of the test's own. */
function gossip(...octets: ArrayLike<number>[]): Uint8Array {
  return Uint8Array.from([0, 5, ...octets.flatMap((part) => Array.from(part))]);
}

/** An update around any record octets. */
function update(record: Uint8Array, ...rest: number[]): number[] {
  const size = record.length < 128 ? [record.length] : [(record.length & 127) | 128, record.length >> 7];
  return [...size, ...record, ...new Array(64).fill(7), ...rest];
}

describe("membership messages", () => {
  it.each(MESSAGES.map((message, index) => [`${message.type} ${index}`, message] as const))(
    "arrive as they were sent: %s",
    (_, message) => {
      const octets = encodeMessage(message);
      expect(decodeMessage(octets)).toEqual(message);
      expect(encodeMessage(decodeMessage(octets)!)).toEqual(octets);
    },
  );

  it("have these octets", () => {
    const record = { ...recordOf("ab", 300, { name: "n", addresses: ["/x"], freeBytes: 5, domainCount: 2 }) };
    const signature = new Uint8Array(64).fill(7);
    const message = { record: { ...record, signature }, status: "alive" as const, accusations: [] };
    expect([...encodeMessage({ type: "ping", sequence: 9, updates: [message] })]).toEqual(
      [
        ...[0, 1], // ping
        9, // sequence
        13, // record_size
        ...[2, 0x61, 0x62], // host
        ...[0xac, 2], // incarnation
        0, // state: alive
        ...[1, 0x6e], // name
        ...[1, 2, 0x2f, 0x78], // one address
        5, // free_bytes
        2, // domain_count: the record ends
        ...signature,
        0, // status: alive, so there are no accusations
      ].map((octet, index) => (index === 3 ? 14 : octet)),
    );
  });

  it("keep their signatures when the octets they came in are reused", () => {
    const octets = encodeMessage({ type: "gossip", updates: [alive("a")] });
    const message = decodeMessage(octets);
    octets.fill(0);
    expect(message).toEqual({ type: "gossip", updates: [alive("a")] });
  });

  it("fit with any part of a state into a message", () => {
    expect(STATE_PART_SIZE_MAX + encodeUpdate(LARGEST).length + 64).toBeLessThan(MEMBERSHIP_MESSAGE_SIZE_MAX);
  });

  it("are skipped when a later version says that they may be", () => {
    expect(decodeMessage(Uint8Array.from([OPTIONAL >> 8, 99, 1, 2, 3]))).toBeUndefined();
  });
});

describe("what is signed", () => {
  it("is never both a record and an accusation", () => {
    const record = recordOf("a", 1);
    const accusation = accusationOctets(record, { kind: "dead", from: "b" });
    expect(codeOf(() => decodeMessage(gossip(update(accusation, 0))))).toBe("PROTOCOL_BAD_FIELD");
    expect(recordOctets(record)[0]).not.toBe(accusation[0]);
  });

  it("differs for every host, incarnation, kind and accuser", () => {
    const octets = [
      accusationOctets(recordOf("a", 1), { kind: "dead", from: "b" }),
      accusationOctets(recordOf("a", 2), { kind: "dead", from: "b" }),
      accusationOctets(recordOf("a", 1), { kind: "suspect", from: "b" }),
      accusationOctets(recordOf("a", 1), { kind: "dead", from: "c" }),
      accusationOctets(recordOf("b", 1), { kind: "dead", from: "a" }),
    ].map((each) => Buffer.from(each).toString("hex"));
    expect(new Set(octets).size).toBe(octets.length);
  });

  it("cannot be more than may be announced", () => {
    const tooMany = { addresses: new Array(ADDRESSES_MAX + 1).fill("/x") };
    expect(() => recordOf("a", 1, tooMany)).toThrow(AssertionFailure);
    expect(() => recordOf("a", INCARNATION_MAX + 1)).toThrow(AssertionFailure);
  });
});

describe("a decoder of membership", () => {
  const plain = recordOctets(recordOf("a", 1));
  const gone = recordOctets(recordOf("a", 1, { state: "left" }));
  const accuser = (kind: number, name: string): number[] => {
    return [kind, name.length, ...Buffer.from(name), ...new Array(64).fill(1)];
  };

  it.each([
    ["nothing", [], "PROTOCOL_FRAME_TRUNCATED"],
    ["half a type", [0], "PROTOCOL_FRAME_TRUNCATED"],
    ["an unknown type", [0, 99], "PROTOCOL_UNKNOWN_MESSAGE"],
    ["more than a message", new Uint8Array(MEMBERSHIP_MESSAGE_SIZE_MAX + 1), "PROTOCOL_FRAME_TOO_LARGE"],
    ["a sequence over 32 bits", [0, 4, 255, 255, 255, 255, 127], "PROTOCOL_BAD_FIELD"],
    ["octets after a nack", [0, 4, 1, 1], "PROTOCOL_BAD_FIELD"],
    ["octets after a digest", [0, 6, 1, 1, 1], "PROTOCOL_BAD_FIELD"],
    ["unknown flags of a state", [0, 7, 2], "PROTOCOL_BAD_FIELD"],
    ["a target without a name", [0, 3, 1, 0], "PROTOCOL_BAD_FIELD"],
    ["a target of controls", [0, 3, 1, 1, 7], "PROTOCOL_BAD_FIELD"],
    ["a target that is too long", [0, 3, 1, 129, 1, ...new Array(129).fill(97)], "PROTOCOL_BAD_FIELD"],
    ["a record longer than the message", gossip([127, 1, 2]), "PROTOCOL_BAD_FIELD"],
    [
      "a record with octets after it",
      gossip(update(Uint8Array.from([...plain, 0]), 0)),
      "PROTOCOL_BAD_FIELD",
    ],
    ["an update without a signature", gossip([plain.length], plain, [1, 2, 3]), "PROTOCOL_FRAME_TRUNCATED"],
    ["an unknown status", gossip(update(plain, 4)), "PROTOCOL_BAD_FIELD"],
    ["one that left by a record that says alive", gossip(update(plain, 3)), "PROTOCOL_BAD_FIELD"],
    ["one alive by a record that says left", gossip(update(gone, 0)), "PROTOCOL_BAD_FIELD"],
    ["one that left and is dead", gossip(update(gone, 2, ...accuser(2, "b"))), "PROTOCOL_BAD_FIELD"],
    ["a suspect without accusers", gossip(update(plain, 1, 0)), "PROTOCOL_BAD_FIELD"],
    ["too many accusers", gossip(update(plain, 1, 9)), "PROTOCOL_BAD_FIELD"],
    [
      "one accuser twice",
      gossip(update(plain, 1, 2, ...accuser(1, "b"), ...accuser(1, "b"))),
      "PROTOCOL_BAD_FIELD",
    ],
    ["a host that accuses itself", gossip(update(plain, 1, 1, ...accuser(1, "a"))), "PROTOCOL_BAD_FIELD"],
    ["dead by a suspicion", gossip(update(plain, 2, ...accuser(1, "b"))), "PROTOCOL_BAD_FIELD"],
    ["an unknown kind", gossip(update(plain, 1, 1, ...accuser(3, "b"))), "PROTOCOL_BAD_FIELD"],
  ] as const)("refuses %s", (_, octets, code) => {
    expect(codeOf(() => decodeMessage(Uint8Array.from(octets)))).toBe(code);
  });

  const octet = fc.oneof(fc.constantFrom(0, 1, 2, 3, 0x7f, 0x80, 0xff), fc.nat(255));

  /** Fails unless the octets are refused with a ProtocolError or mean exactly one message. */
  function survives(octets: Uint8Array, outcomes: { decoded: number; refused: number }): void {
    let message: MembershipMessage | undefined;
    try {
      message = decodeMessage(octets);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      outcomes.refused += 1;
      return;
    }
    if (message === undefined) return;
    outcomes.decoded += 1;
    expect(Buffer.compare(encodeMessage(message), octets)).toBe(0);
  }

  it("decodes or refuses any octets of any type", () => {
    const outcomes = { decoded: 0, refused: 0 };
    fc.assert(
      fc.property(fc.nat(9), fc.array(octet, { maxLength: 40 }), (type, octets) => {
        survives(Uint8Array.from([0, type, ...octets]), outcomes);
      }),
      { numRuns: 10_000 },
    );
    expect(outcomes.decoded).toBeGreaterThan(300);
    expect(outcomes.refused).toBeGreaterThan(3000);
  });

  it("decodes or refuses damaged messages", () => {
    const outcomes = { decoded: 0, refused: 0 };
    const whole = MESSAGES.map((message) => encodeMessage(message)).filter(({ length }) => length < 2000);
    const mutation = fc.record({
      cut: fc.nat(3),
      at: fc.double({ min: 0, max: 0.999, noNaN: true }),
      insert: fc.array(octet, { maxLength: 3 }),
    });
    fc.assert(
      fc.property(
        fc.constantFrom(...whole),
        fc.array(mutation, { minLength: 1, maxLength: 3 }),
        (message, mutations) => {
          const octets = [...message];
          for (const { at, cut, insert } of mutations)
            octets.splice(Math.floor(at * octets.length), cut, ...insert);
          survives(Uint8Array.from(octets), outcomes);
        },
      ),
      { numRuns: 10_000 },
    );
    expect(outcomes.decoded).toBeGreaterThan(200);
    expect(outcomes.refused).toBeGreaterThan(2000);
  });
});
