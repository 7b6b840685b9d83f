import { describe, expect, it } from "vitest";
import { BANNER, RECEIVED, ReceiverWords } from "../../../../node/hypervisor/xen/xl-handshake.ts";

describe("the receiver's words", () => {
  it("are understood octet by octet: ready, then the domain as a whole", () => {
    const words = new ReceiverWords();
    const seen: string[] = [];
    for (const octet of Buffer.from(BANNER + RECEIVED)) {
      words.push(Buffer.from([octet]));
      const now = `${words.isReady} ${words.hasReceived}`;
      if (seen.at(-1) !== now) seen.push(now);
    }
    expect(seen).toEqual(["false false", "true false", "true true"]);
  });

  it.each([
    "Loading new save file",
    `${BANNER}domain received, ready to fail\0`,
    `${BANNER}${RECEIVED}my copy unpause results are as follows\0`,
  ])("are refused where no receiver says them: %j", (said) => {
    expect(() => new ReceiverWords().push(Buffer.from(said))).toThrow(/xl says/);
  });
});
