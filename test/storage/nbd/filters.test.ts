import { describe, expect, it } from "vitest";
import { MemoryBlockStore } from "../../../storage/memory-block-store.ts";
import { DelayBlockStore } from "../../../storage/nbd/filters/delay.ts";
import { ErrorBlockStore } from "../../../storage/nbd/filters/error.ts";
import { blockStoreContract } from "../../contract/block-store.contract.ts";

blockStoreContract(
  "delay",
  async (options) =>
    new DelayBlockStore(new MemoryBlockStore(options), { readMs: 0.1, writeMs: 0.1, flushMs: 0.1 }),
);
blockStoreContract(
  "error without errors",
  async (options) => new ErrorBlockStore(new MemoryBlockStore(options), { seed: 1, rates: {} }),
);

describe("the error filter", () => {
  const failures = (seed: number): string => {
    const store = new ErrorBlockStore(new MemoryBlockStore({ sizeBytes: 4096 }), {
      seed,
      rates: { read: 0.3 },
    });
    const target = new Uint8Array(1);
    let pattern = "";
    for (let i = 0; i < 200; i++) {
      try {
        store.read(0, target);
        pattern += ".";
      } catch (error) {
        expect(error).toMatchObject({ code: "STORAGE_IO" });
        pattern += "x";
      }
    }
    return pattern;
  };

  it("fails again where it failed, by its seed alone", () => {
    expect(failures(7)).toBe(failures(7));
    expect(failures(7)).not.toBe(failures(8));
    expect(failures(7).replaceAll(".", "").length).toBeGreaterThan(30);
  });

  it("leaves the operations alone that have no rate", () => {
    const memory = new MemoryBlockStore({ sizeBytes: 4096 });
    const store = new ErrorBlockStore(memory, { seed: 7, rates: { write: 1 } });
    expect(store.read(0, new Uint8Array(1))).toBeUndefined();
    expect(() => store.write(0, new Uint8Array(1))).toThrow(/injected/);
  });
});

it("the delay filter closes its store after what it delays", async () => {
  const memory = new MemoryBlockStore({ sizeBytes: 4096 });
  const store = new DelayBlockStore(memory, { writeMs: 5 });
  const written = store.write(0, new Uint8Array(1));
  await store.close();
  await expect(written).resolves.toBeUndefined();
});
