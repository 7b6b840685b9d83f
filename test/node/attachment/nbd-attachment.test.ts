import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { NbdAttachment } from "../../../node/attachment/nbd-attachment.ts";
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
