import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, it, onTestFinished } from "vitest";
import { NbdClient } from "../../../storage/nbd/client.ts";
import { serveFile } from "../../../storage/nbd/serve-file.ts";
import { temporaryDirectory } from "./fixtures.ts";

it("serves a file until it is stopped", async () => {
  const directory = await temporaryDirectory();
  const path = join(directory, "disk.img");
  await writeFile(path, Buffer.alloc(1 << 20, 0x5a));
  const served = await serveFile({ path, address: { host: "127.0.0.1", port: 0 }, readOnly: true });
  onTestFinished(() => served.stop());
  expect(served.sizeBytes).toBe(1 << 20);
  const client = await NbdClient.connect(served.address, { exportName: "" });
  expect(await client.read(1000, 16)).toEqual(Buffer.alloc(16, 0x5a));
  await expect(client.write(0, new Uint8Array(1))).rejects.toMatchObject({ detail: { errno: 1 } });
  const lost = new Promise((resolve) => client.onLost(resolve));
  await served.stop();
  await expect(lost).resolves.toMatchObject({ code: "NBD_CONNECTION_LOST" });
});

it("says that there is no such file", async () => {
  const directory = await temporaryDirectory();
  const address = { unixPath: join(directory, "nbd.sock") };
  const options = { path: join(directory, "missing"), address, readOnly: false };
  await expect(serveFile(options)).rejects.toMatchObject({ code: "STORAGE_NOT_FOUND" });
});
