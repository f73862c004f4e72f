// Keeps the copy of what the server sent in IndexedDB, away from the page's own thread.
import { IndexedDBStoreWorker } from "matrix-js-sdk/lib/indexeddb-worker";

const remote = new IndexedDBStoreWorker(self.postMessage.bind(self) as InstanceType<typeof Worker>["postMessage"]);
self.onmessage = (e: MessageEvent): void => remote.onMessage(e);
