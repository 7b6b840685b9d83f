import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { DeviceBlockStore } from "../../storage/device-block-store.ts";
import { blockStoreContract, expectSameBytes, pattern } from "../contract/block-store.contract.ts";

const directory = mkdtempSync(join(tmpdir(), "sojourn-device-store-"));
const devices: string[] = [];
afterAll(() => {
  for (const device of devices) execFileSync("losetup", ["--detach", device]);
  rmSync(directory, { recursive: true });
});
let count = 0;

function newFile(sizeBytes: number): string {
  const path = join(directory, `backing-${count++}`);
  writeFileSync(path, "");
  truncateSync(path, sizeBytes);
  return path;
}

function newDevice(sizeBytes: number): string {
  const device = execFileSync("losetup", ["--find", "--show", newFile(sizeBytes)], { stdio: "pipe" });
  devices.push(device.toString().trim());
  return devices.at(-1)!;
}

/** Loop devices need root and a kernel that has them. */
const withLoopDevices = (() => {
  try {
    newDevice(4096);
    return true;
  } catch {
    return false;
  }
})();

blockStoreContract("device, on a plain file", async ({ sizeBytes }) =>
  DeviceBlockStore.open(newFile(Math.ceil(sizeBytes / 4096) * 4096), { sizeBytes }),
);

describe.skipIf(!withLoopDevices)("device block store, on a loop device", () => {
  it("has the device's size, reads and writes at any alignment, zeroes and trims", async () => {
    const path = newDevice(8 << 20);
    const store = DeviceBlockStore.open(path);
    expect(store.sizeBytes).toBe(8 << 20);
    expect(store.extents(0, 8 << 20)).toBeUndefined();
    const model = pattern(8 << 20, 1);
    await store.write(0, model);
    for (const [offset, length] of [
      [0, 4096],
      [5000, 10],
      [4095, 8194],
      [1 << 20, (3 << 20) + 77],
    ] as const) {
      await store.writeZeroes(offset, length, { mayUnmap: offset !== 5000 });
      model.fill(0, offset, offset + length);
    }
    await store.flush();
    const bytes = new Uint8Array(8 << 20);
    await store.read(0, bytes);
    expectSameBytes(bytes, model);
    await store.trim(6 << 20, 1 << 20);
    await store.read(0, bytes);
    for (let at = 6 << 20; at < 7 << 20; at++) if (bytes[at] === 0) model[at] = 0;
    expectSameBytes(bytes, model);
    await store.close();
  });
});

describe("device block store", () => {
  it("uses the beginning of a larger device and refuses a smaller one", async () => {
    const path = newFile(8192);
    const store = DeviceBlockStore.open(path, { sizeBytes: 5000 });
    expect(() => store.write(4999, new Uint8Array(2))).toThrow("STORAGE_OUT_OF_RANGE");
    await store.close();
    expect(() => DeviceBlockStore.open(path, { sizeBytes: 8193 })).toThrow("STORAGE_SIZE_MISMATCH");
    expect(() => DeviceBlockStore.open(join(directory, "none"))).toThrow("STORAGE_NOT_FOUND");
  });
});
