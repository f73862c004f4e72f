// A name server that knows no name and prints each that it is asked for, one a line. Argument: the address to listen at.
import { createSocket } from "node:dgram";

const server = createSocket("udp4");
server.on("message", (question, from) => {
    const labels = [];
    for (let at = 12; at < question.length && question[at] > 0; at += question[at] + 1) labels.push(question.toString("latin1", at + 1, at + 1 + question[at]));
    console.log(labels.join("."));
    const answer = Buffer.from(question);
    answer[2] |= 0x80; // a response …
    answer[3] = 0x83; // … to a recursive question: no such name (RFC 1035 §4.1.1)
    server.send(answer, from.port, from.address);
});
server.bind(53, process.argv[2], () => console.log("ready"));
