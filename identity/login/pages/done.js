// Tells the page that waits that the person confirmed who they are, and gives way to it.
"use strict";

const channel = new BroadcastChannel("holdfast-reauth");
channel.postMessage("confirmed");
channel.close();
window.close();
