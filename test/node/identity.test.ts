import { chmod, mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { generateKeyPair, privateKeyToProtobuf } from "@libp2p/crypto/keys";
import { afterEach, beforeEach, expect, test } from "vitest";
import { loadIdentity, loadOrCreateIdentity } from "../../node/identity.ts";

let folder: string;
let file: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "sojourn-identity-"));
  file = join(folder, "data", "host.key");
});
afterEach(async () => {
  await rm(folder, { recursive: true, force: true });
});

test("the first start makes a key that only its owner reads, and leaves nothing else behind", async () => {
  expect(await loadIdentity(file)).toBeUndefined();
  const { hostId, privateKey } = await loadOrCreateIdentity(file);
  expect(hostId).toMatch(/^12D3KooW[1-9A-HJ-NP-Za-km-z]{44}$/);
  expect(privateKey.type).toBe("Ed25519");
  expect((await stat(file)).mode & 0o777).toBe(0o600);
  expect(await readdir(join(folder, "data"))).toEqual(["host.key"]);
});

test("every later start finds the same identity", async () => {
  const { hostId, privateKey } = await loadOrCreateIdentity(file);
  const again = await loadOrCreateIdentity(file);
  expect(again.hostId).toBe(hostId);
  expect(again.privateKey.equals(privateKey)).toBe(true);
});

test("starts at the same time agree on one identity", async () => {
  const identities = await Promise.all(Array.from({ length: 8 }, () => loadOrCreateIdentity(file)));
  expect(new Set(identities.map(({ hostId }) => hostId)).size).toBe(1);
  expect(await readdir(join(folder, "data"))).toEqual(["host.key"]);
});

test.each([0o640, 0o604, 0o660, 0o610])(
  "a key of mode %o is refused with the remedy, and stays as it is",
  async (mode) => {
    await loadOrCreateIdentity(file);
    const before = await readFile(file);
    await chmod(file, mode);
    await expect(loadOrCreateIdentity(file)).rejects.toMatchObject({
      code: "HOST_KEY_EXPOSED",
      message: expect.stringContaining(`mode 0${mode.toString(8)}`),
      remedy: expect.stringContaining(`chmod 600 ${file}`),
    });
    expect(await readFile(file)).toEqual(before);
  },
);

test("a file that is no key is refused with the remedy, and stays as it is", async () => {
  await loadOrCreateIdentity(file);
  const good = await readFile(file, "utf8");
  const rsa = Buffer.from(privateKeyToProtobuf(await generateKeyPair("secp256k1"))).toString("base64");
  const bad = [
    "",
    "\n",
    good.slice(0, -10),
    good.replace("v1", "v2"),
    `${good}x`,
    `sojourn-host-key-v1 ${rsa}\n`,
    "\u0000".repeat(100),
  ];
  for (const text of bad) {
    await writeFile(file, text);
    await expect(loadOrCreateIdentity(file)).rejects.toMatchObject({
      code: "HOST_KEY_CORRUPT",
      message: expect.stringContaining(file),
      remedy: expect.stringContaining("backup"),
    });
    expect(await readFile(file, "utf8")).toBe(text);
  }
});

test("an error does not show the key", async () => {
  await loadOrCreateIdentity(file);
  const good = await readFile(file, "utf8");
  await writeFile(file, good.replace(" ", " !"));
  const error = await loadOrCreateIdentity(file).catch((cause: Error) => cause);
  expect(`${error}${JSON.stringify(error)}`).not.toContain(good.split(" ")[1]!.slice(0, 20));
});
