import { describe, expect, it } from "vitest";
import {
  decodeReplies,
  encodeConnect,
  encodeDisconnect,
  encodeGetFamily,
  encodeReconfigure,
  familyOf,
  indexOf,
} from "../../../../node/hypervisor/xen/nbd-netlink.ts";

const FAMILY = 0x1d;

describe("the kernel's NBD client by netlink", () => {
  it("is looked for by its name", () => {
    expect(encodeGetFamily().toString("hex")).toBe(
      // length 28, type 16, flags REQUEST, sequence, port; GETFAMILY 1; attribute 2 of 8 octets "nbd\0"
      "1c000000" + "1000" + "0100" + "00000000" + "00000000" + "03010000" + "0800" + "0200" + "6e626400",
    );
  });

  it("is given a connection with its size, its flags and a name of its own", () => {
    const message = encodeConnect(FAMILY, {
      sizeBytes: 0x40000000,
      blockSizeBytes: 512,
      flags: 0x2d,
      fd: 9,
      deadConnectionSeconds: 60,
      identifier: "x/y",
    });
    expect(message.toString("hex")).toBe(
      "5c000000" +
        "1d00" +
        "0500" +
        "00000000" +
        "00000000" +
        "01010000" +
        "0c000200" +
        "0000004000000000" +
        "0c000300" +
        "0002000000000000" +
        "0c000500" +
        "2d00000000000000" +
        "0c000800" +
        "3c00000000000000" +
        "08000a00" +
        "782f7900" +
        "10000780" +
        "0c000180" +
        "08000100" +
        "09000000",
    );
  });

  it("is given another connection for the device of that name", () => {
    const message = encodeReconfigure(FAMILY, { index: 3, fd: 7, identifier: "x/y" });
    expect(message.toString("hex", 16)).toBe(
      "03010000" +
        "08000100" +
        "03000000" +
        "08000a00" +
        "782f7900" +
        "10000780" +
        "0c000180" +
        "08000100" +
        "07000000",
    );
    expect(encodeDisconnect(FAMILY, 3).toString("hex", 16)).toBe("02010000" + "08000100" + "03000000");
  });

  it("answers with the device that it took, and with an acknowledgement", () => {
    const answer = Buffer.from(
      "1c0000001d0000000000000000000000" + "01010000" + "08000100" + "05000000",
      "hex",
    );
    const ack = Buffer.from(`2400000002000000000000000000000000000000${"00".repeat(16)}`, "hex");
    const replies = decodeReplies(Buffer.concat([answer, ack]));
    expect(replies.map(({ type }) => type)).toEqual(["answer", "ack"]);
    const [first] = replies;
    expect(first?.type === "answer" ? indexOf(first.attributes) : undefined).toBe(5);
  });

  it("answers with the number of its family", () => {
    const answer = Buffer.from(
      "24000000100000000000000000000000" + "01020000" + "08000200" + "6e626400" + "06000100" + "1d000000",
      "hex",
    );
    const [first] = decodeReplies(answer);
    expect(first?.type === "answer" ? familyOf(first.attributes) : undefined).toBe(0x1d);
  });

  it("refuses with the number of an error", () => {
    const refusal = Buffer.from(`24000000020000000000000000000000f0ffffff${"00".repeat(16)}`, "hex");
    expect(decodeReplies(refusal)).toEqual([{ type: "error", errno: 16 }]);
  });

  it("is not believed when an answer is cut short", () => {
    const cut = Buffer.from("64000000020000000000000000000000", "hex");
    expect(() => decodeReplies(cut)).toThrow(RangeError);
  });
});
