import { describe, expect, it } from "vitest";
import { MemoryBlockStore } from "../../../storage/memory-block-store.ts";
import { encodeGo, encodeMetaContexts, encodeOption } from "../../../storage/nbd/client-codec.ts";
import { NBD_OPT, OPTION_SIZE_BYTES_MAX, OPTIONS_MAX } from "../../../storage/nbd/constants.ts";
import { ExportRegistry } from "../../../storage/nbd/export-registry.ts";
import { greeting, type HandshakeState, octetsWanted, step } from "../../../storage/nbd/handshake.ts";
import { exportOf, octets } from "./fixtures.ts";

const REPLY = "0003e889045565a9";
const ACK = (option: string) => `${REPLY} ${option} 00000001 00000000`;
/** HAS_FLAGS FLUSH FUA TRIM WRITE_ZEROES MULTI_CONN CACHE FAST_ZERO */
const FLAGS = "0d6d";
const FLAGS_STRUCTURED = "0ded";

function registry(): ExportRegistry {
  const exports = new ExportRegistry();
  const store = new MemoryBlockStore({ sizeBytes: 0x123456000 });
  const contexts = () => [
    { name: "x-sojourn:generation/3", extentsOf: () => [] },
    { name: "x-sojourn:generation/4", extentsOf: () => [] },
  ];
  exports.add(exportOf(store, { name: "disk", description: "a disk", listed: true, contexts }));
  exports.add(exportOf(store, { name: "secret-7f3a", readOnly: true, canMultiConn: false }));
  return exports;
}

/** Feeds octets as the driver does, and returns the last state with everything that was sent. */
function negotiate(input: Buffer | string, exports = registry()): { state: HandshakeState; sent: string } {
  let state: HandshakeState = { phase: "client-flags" };
  let rest = typeof input === "string" ? octets(input) : input;
  const sent: Buffer[] = [];
  while (state.phase !== "transmission" && state.phase !== "closed") {
    const wanted = octetsWanted(state);
    if (rest.length < wanted) break;
    const [next, replies] = step(state, rest.subarray(0, wanted), exports);
    rest = rest.subarray(wanted);
    sent.push(...replies);
    state = next;
  }
  return { state, sent: Buffer.concat(sent).toString("hex") };
}

const START = octets("00000003");
const structured = encodeOption(NBD_OPT.STRUCTURED_REPLY);

function hex(...fields: string[]): string {
  return fields.join("").replaceAll(" ", "");
}

describe("handshake: the greeting", () => {
  it("announces fixed newstyle and no zeroes", () => {
    expect(greeting().toString("hex")).toBe(hex("4e42444d41474943", "49484156454f5054", "0003"));
  });

  it("drops a client that sets a flag nobody knows", () => {
    expect(negotiate("00000007").state).toEqual({ phase: "closed", reason: "unknown client flags" });
  });

  it("lets a client without fixed newstyle do nothing but name its export", () => {
    expect(negotiate(Buffer.concat([octets("00000002"), structured])).state.phase).toBe("closed");
    const { state, sent } = negotiate(
      Buffer.concat([octets("00000002"), encodeOption(NBD_OPT.EXPORT_NAME, Buffer.from("disk"))]),
    );
    expect(state.phase).toBe("transmission");
    expect(sent).toBe(hex("0000000123456000", FLAGS));
  });
});

describe("handshake: GO", () => {
  it("tells size, flags and block sizes, and begins", () => {
    const { state, sent } = negotiate(Buffer.concat([START, encodeOption(NBD_OPT.GO, encodeGo("disk"))]));
    expect(sent).toBe(
      hex(
        ...[REPLY, "00000007", "00000003", "0000000c", "0000", "0000000123456000", FLAGS],
        ...[REPLY, "00000007", "00000003", "0000000e", "0003", "00000001", "00001000", "02000000"],
        ACK("00000007"),
      ),
    );
    expect(state).toMatchObject({ phase: "transmission", structuredReplies: false, contexts: [] });
  });

  it("announces DF once structured replies were agreed on", () => {
    const { sent } = negotiate(
      Buffer.concat([START, structured, encodeOption(NBD_OPT.GO, encodeGo("disk"))]),
    );
    expect(sent).toContain(hex("0000000123456000", FLAGS_STRUCTURED));
  });

  it("announces of a read-only export neither trim nor zeroes", () => {
    const { sent } = negotiate(Buffer.concat([START, encodeOption(NBD_OPT.GO, encodeGo("secret-7f3a"))]));
    expect(sent).toContain(hex("0000000123456000", "040f"));
  });

  it("reaches an unlisted export by its exact name only", () => {
    for (const name of ["", "secret", "secret-7f3a\0", "SECRET-7F3A", "disk/../secret-7f3a"]) {
      const { state, sent } = negotiate(Buffer.concat([START, encodeOption(NBD_OPT.GO, encodeGo(name))]));
      expect(sent).toBe(hex(REPLY, "00000007", "80000006", "00000000"));
      expect(state.phase).toBe("option");
    }
  });

  it("means the default export by the empty name, where there is one", () => {
    const exports = new ExportRegistry({ defaultName: "only" });
    exports.add(exportOf(new MemoryBlockStore({ sizeBytes: 4096 }), { name: "only" }));
    const { state } = negotiate(Buffer.concat([START, encodeOption(NBD_OPT.GO, encodeGo(""))]), exports);
    expect(state).toMatchObject({ phase: "transmission", entry: exports.find("only") });
  });

  it("tells name and description to a client that wants them, and goes on after INFO", () => {
    const data = octets("00000004 6469736b 0002 0001 0002");
    const { state, sent } = negotiate(Buffer.concat([START, encodeOption(NBD_OPT.INFO, data)]));
    expect(sent).toContain(hex(REPLY, "00000006", "00000003", "00000006", "0001", "6469736b"));
    expect(sent).toContain(hex(REPLY, "00000006", "00000003", "00000008", "0002", "61206469736b"));
    expect(state.phase).toBe("option");
  });

  it.each([
    ["no octets at all", ""],
    ["a name that is longer than the data", "000000ff 6469736b 0000"],
    ["a name of four gigabytes", "ffffffff 6469736b 0000"],
    ["more information requests than octets", "00000004 6469736b 0002 0001"],
    ["octets left over", "00000004 6469736b 0000 00"],
    ["a name that is not UTF-8", "00000004 ff69736b 0000"],
  ])("refuses %s", (_, data) => {
    const { sent } = negotiate(Buffer.concat([START, encodeOption(NBD_OPT.GO, octets(data))]));
    expect(sent).toBe(hex(REPLY, "00000007", "80000003", "00000000"));
  });
});

describe("handshake: the other options", () => {
  it("lists what is listed", () => {
    const { sent } = negotiate(Buffer.concat([START, encodeOption(NBD_OPT.LIST)]));
    expect(sent).toBe(
      hex(
        ...[REPLY, "00000003", "00000002", "0000000e", "00000004", "6469736b", "61206469736b"],
        ACK("00000003"),
      ),
    );
  });

  it("acknowledges ABORT and closes", () => {
    const { state, sent } = negotiate(Buffer.concat([START, encodeOption(NBD_OPT.ABORT)]));
    expect(sent).toBe(hex(ACK("00000002")));
    expect(state.phase).toBe("closed");
  });

  it("closes when EXPORT_NAME names nothing", () => {
    const { state, sent } = negotiate(
      Buffer.concat([START, encodeOption(NBD_OPT.EXPORT_NAME, Buffer.from("x"))]),
    );
    expect(sent).toBe("");
    expect(state.phase).toBe("closed");
  });

  it("pads the answer to EXPORT_NAME for a client that wants the zeroes", () => {
    const option = encodeOption(NBD_OPT.EXPORT_NAME, Buffer.from("disk"));
    const { sent } = negotiate(Buffer.concat([octets("00000001"), option]));
    expect(sent).toBe(hex("0000000123456000", FLAGS, "00".repeat(124)));
  });

  it.each([
    ["STARTTLS", 5],
    ["EXTENDED_HEADERS", 11],
    ["PEEK_EXPORT", 4],
    ["an option of the future", 0x1234],
  ])("does not know %s", (_, option) => {
    const { sent, state } = negotiate(Buffer.concat([START, encodeOption(option)]));
    expect(sent).toBe(hex(REPLY, option.toString(16).padStart(8, "0"), "80000001", "00000000"));
    expect(state.phase).toBe("option");
  });

  it("skips an option that is too large, holding little of it, and refuses it", () => {
    const header = encodeOption(NBD_OPT.GO);
    const length = 5 * OPTION_SIZE_BYTES_MAX + 7;
    header.writeUInt32BE(length, 12);
    let state = negotiate(Buffer.concat([START, header])).state;
    let left = length;
    while (state.phase === "skipping") {
      const wanted = octetsWanted(state);
      expect(wanted).toBeLessThanOrEqual(OPTION_SIZE_BYTES_MAX);
      left -= wanted;
      const [next, replies] = step(state, Buffer.alloc(wanted), registry());
      if (next.phase === "option") {
        expect(Buffer.concat(replies).toString("hex")).toBe(hex(REPLY, "00000007", "80000009", "00000000"));
      }
      state = next;
    }
    expect(left).toBe(0);
    expect(state.phase).toBe("option");
  });

  it("closes after more options than any client needs", () => {
    const many = Array.from({ length: OPTIONS_MAX + 1 }, () => encodeOption(NBD_OPT.LIST));
    expect(negotiate(Buffer.concat([START, ...many])).state).toEqual({
      phase: "closed",
      reason: "too many options",
    });
  });

  it("closes on a bad magic", () => {
    const bad = encodeOption(NBD_OPT.LIST);
    bad[0] = 0;
    expect(negotiate(Buffer.concat([START, bad])).state.phase).toBe("closed");
  });
});

describe("handshake: metadata contexts", () => {
  const query = (option: number, name: string, queries: readonly string[]) =>
    Buffer.concat([START, structured, encodeOption(option, encodeMetaContexts(name, queries))]);
  const namesIn = (sent: string): string[] => {
    const bytes = Buffer.from(sent, "hex");
    const names: string[] = [];
    for (let at = 0; at < bytes.length; at += 20 + bytes.readUInt32BE(at + 16)) {
      const end = at + 20 + bytes.readUInt32BE(at + 16);
      if (bytes.readUInt32BE(at + 12) === 4) names.push(bytes.subarray(at + 24, end).toString());
    }
    return names;
  };
  const all = ["base:allocation", "x-sojourn:generation/3", "x-sojourn:generation/4"];

  it.each([
    [[], all],
    [["base:"], ["base:allocation"]],
    [["x-sojourn:"], all.slice(1)],
    [["x-sojourn:generation/"], all.slice(1)],
    [["x-sojourn:generation/4"], all.slice(2)],
    [["x-sojourn:gen", "other:"], []],
  ])("lists for %j: %j", (queries, names) => {
    expect(namesIn(negotiate(query(NBD_OPT.LIST_META_CONTEXT, "disk", queries)).sent)).toEqual(names);
  });

  it("selects by exact name, and numbers what it selected", () => {
    const request = query(NBD_OPT.SET_META_CONTEXT, "disk", [
      "x-sojourn:generation/4",
      "base:",
      "base:allocation",
    ]);
    const { state, sent } = negotiate(Buffer.concat([request, encodeOption(NBD_OPT.GO, encodeGo("disk"))]));
    expect(namesIn(sent)).toEqual(["base:allocation", "x-sojourn:generation/4"]);
    expect(state).toMatchObject({
      contexts: [
        { id: 1, context: { name: "base:allocation" } },
        { id: 2, context: { name: "x-sojourn:generation/4" } },
      ],
    });
  });

  it("drops the selection when GO names another export", () => {
    const request = query(NBD_OPT.SET_META_CONTEXT, "disk", ["base:allocation"]);
    const { state } = negotiate(Buffer.concat([request, encodeOption(NBD_OPT.GO, encodeGo("secret-7f3a"))]));
    expect(state).toMatchObject({ phase: "transmission", contexts: [] });
  });

  it("refuses them before structured replies, for an unknown export, and in more queries than are sane", () => {
    const data = encodeMetaContexts("disk", ["base:allocation"]);
    const early = negotiate(Buffer.concat([START, encodeOption(NBD_OPT.SET_META_CONTEXT, data)]));
    expect(early.sent).toBe(hex(REPLY, "0000000a", "80000003", "00000000"));
    const unknown = negotiate(query(NBD_OPT.LIST_META_CONTEXT, "secret", [])).sent;
    expect(unknown.endsWith(hex(REPLY, "00000009", "80000006", "00000000"))).toBe(true);
    const many = negotiate(query(NBD_OPT.LIST_META_CONTEXT, "disk", Array(65).fill("base:"))).sent;
    expect(many.endsWith(hex(REPLY, "00000009", "80000003", "00000000"))).toBe(true);
  });
});
