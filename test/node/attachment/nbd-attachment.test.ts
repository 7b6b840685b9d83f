import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { NbdAttachment } from "../../../node/attachment/nbd-attachment.ts";
import { BLOCK_SIZE_BYTES } from "../../../protocol/units.ts";
import { NbdClient } from "../../../storage/nbd/client.ts";
import { attachmentContract, type Guest } from "../../contract/attachment.contract.ts";
import { AttachmentFolder } from "./attachment-folder.ts";

attachmentContract("nbd", async (incoming) => {
  const path = mkdtempSync(join(tmpdir(), "sojourn-attachment-"));
  const folder = new AttachmentFolder(path);
  await folder.begin(incoming);
  let attachment = await NbdAttachment.open(folder.options(incoming));
  return {
    attachment,
    guest: nbdGuest(folder),
    reopen: async () => {
      await attachment.close();
      attachment = await NbdAttachment.open(folder.options());
      return attachment;
    },
    remove: async () => {
      await attachment.close();
      await folder.end();
      rmSync(path, { recursive: true });
    },
  };
});

test("that is opened with its fence up lets nothing of the guest land before the fence falls", async () => {
  const path = mkdtempSync(join(tmpdir(), "sojourn-attachment-"));
  const folder = new AttachmentFolder(path);
  await folder.begin();
  const attachment = await NbdAttachment.open({ ...folder.options(), fenced: true });
  try {
    const guest = nbdGuest(folder);
    await expect(guest.write(0, 0, BLOCK_SIZE_BYTES, 0x51)).rejects.toThrow();
    await expect(guest.discard(1, 0, BLOCK_SIZE_BYTES)).rejects.toThrow();
    expect(attachment.written().map((bitmap) => bitmap.population)).toEqual([0, 0]);
    expect(await guest.holds(0, 0, BLOCK_SIZE_BYTES, 0)).toBe(true);
    attachment.unfence();
    await guest.write(0, 0, BLOCK_SIZE_BYTES, 0x52);
    expect(await guest.holds(0, 0, BLOCK_SIZE_BYTES, 0x52)).toBe(true);
  } finally {
    await attachment.close();
    await folder.end();
    rmSync(path, { recursive: true });
  }
});

/** A client per operation: over a restart of the daemon the export is another one. */
function nbdGuest({ nbdSocketPath, vbds }: AttachmentFolder): Guest {
  async function use<T>(vbd: number, work: (client: NbdClient) => Promise<T>): Promise<T> {
    const { exportName } = vbds[vbd]!;
    const client = await NbdClient.connect({ unixPath: nbdSocketPath }, { exportName });
    try {
      return await work(client);
    } finally {
      await client.disconnect();
    }
  }
  return {
    write: (vbd, offset, length, byte) =>
      use(vbd, (client) => client.write(offset, Buffer.alloc(length, byte))),
    zero: (vbd, offset, length) => use(vbd, (client) => client.writeZeroes(offset, length)),
    discard: (vbd, offset, length) => use(vbd, (client) => client.trim(offset, length)),
    holds: (vbd, offset, length, byte) =>
      use(vbd, async (client) => (await client.read(offset, length)).equals(Buffer.alloc(length, byte))),
  };
}
