// The interface between osquery and its extensions, as far as it goes over the wire: names, field
// numbers and types. The binary protocol carries the field numbers only.
//
// osquery.rs beside this file comes from it:
//     thrift --gen rs -out src/extension src/extension/osquery.thrift

// What a plugin is asked (for a table: action, context) and what it answers (rows of text).
typedef map<string, string> ExtensionPluginRequest
typedef list<map<string, string>> ExtensionPluginResponse

// One of the core's flags.
struct InternalOptionInfo {
  1: string value
  2: string default_value
  3: string type
}

typedef map<string, InternalOptionInfo> InternalOptionList

// Who an extension says it is.
struct InternalExtensionInfo {
  1: string name
  2: string version
  3: string sdk_version
  4: string min_sdk_version
}

// The number that the core gives an extension when it registers.
typedef i64 ExtensionRouteUUID

// Plugin name -> its routes, for each registry ("table", "config", ...).
typedef map<string, ExtensionPluginResponse> ExtensionRouteTable
typedef map<string, ExtensionRouteTable> ExtensionRegistry

typedef map<ExtensionRouteUUID, InternalExtensionInfo> InternalExtensionList

// Code 0 is success.
struct ExtensionStatus {
  1: i32 code
  2: string message
  3: ExtensionRouteUUID uuid
}

struct ExtensionResponse {
  1: ExtensionStatus status
  2: ExtensionPluginResponse response
}

// Served by an extension, at <manager socket>.<uuid>.
service Extension {
  ExtensionStatus ping()
  ExtensionResponse call(1: string registry, 2: string item, 3: ExtensionPluginRequest request)
  void shutdown()
}

// Served by the core, at the manager socket.
service ExtensionManager extends Extension {
  InternalExtensionList extensions()
  InternalOptionList options()
  ExtensionStatus registerExtension(1: InternalExtensionInfo info, 2: ExtensionRegistry registry)
  ExtensionStatus deregisterExtension(1: ExtensionRouteUUID uuid)
  ExtensionResponse query(1: string sql)
  ExtensionResponse getQueryColumns(1: string sql)
}
