// Runs a script for ServiceNow with stand-ins for what it finds there, and prints what it did.
// What is given stands on standard input: {script, now, record, properties, encryption, records, length}.
"use strict";

const { createHmac } = require("node:crypto");
const { readFileSync } = require("node:fs");
const { createContext, runInContext } = require("node:vm");

const given = JSON.parse(readFileSync(0, "utf8"));
const done = { sent: [], errors: [], said: [], kept: given.records || [] };

class Encryption {
    generateMac(key, algorithm, text) {
        if (algorithm !== "HmacSHA256" || Buffer.from(key, "base64").toString("base64") !== key) {
            throw new Error("no such algorithm, or the key is not in base64");
        }
        return createHmac("sha256", Buffer.from(key, "base64")).update(text).digest("base64");
    }
}

class RESTMessageV2 {
    constructor() { this.request = { headers: {} }; }
    setEndpoint(url) { this.request.url = url; }
    setHttpMethod(method) { this.request.method = method; }
    setRequestHeader(name, value) { this.request.headers[name] = value; }
    setHttpTimeout(milliseconds) { this.request.milliseconds = milliseconds; }
    setRequestBody(body) { this.request.body = body; }
    executeAsync() { done.sent.push(this.request); }
}

class GlideDateTime {
    getNumericValue() { return given.now; }
}

// A table with the columns sys_id, collection, name and filter_condition, which keeps *length* characters.
class GlideRecord {
    constructor(table) { this.queries = []; this.table = table; }
    addQuery(column, value) { this.queries.push([column, value]); }
    query() {
        this.found = done.kept.filter((row) => this.queries.every(([name, value]) => row[name] === value));
    }
    next() { this.row = this.found.shift(); this.changed = {}; return Boolean(this.row); }
    get(sysId) { this.row = done.kept.find((row) => row.sys_id === sysId); return Boolean(this.row); }
    isValidRecord() { return Boolean(this.row); }
    getUniqueValue() { return this.row.sys_id; }
    getValue(column) { return this.row[column]; }
    setValue(column, value) { this.changed[column] = value.slice(0, given.length); }
    update() { Object.assign(this.row, this.changed); }
}

const context = createContext({
    current: given.record && {
        getUniqueValue: () => given.record.sys_id,
        getValue: (column) => given.record[column],
    },
    previous: null,
    gs: {
        getProperty: (name) => given.properties[name],
        error: (text) => done.errors.push(text),
        info: (text) => done.said.push(text),
    },
    sn_ws: { RESTMessageV2 },
    GlideDateTime,
    GlideRecord,
    [given.encryption]: Encryption,
});
runInContext(given.script, context);
process.stdout.write(JSON.stringify(done));
