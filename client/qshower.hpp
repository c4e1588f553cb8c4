// A C++17 client of the qshower service in one header, over libcurl (link with -lcurl). No exceptions: what can go
// wrong is a Result that holds an Error.
//
//     qshower::Client client({"http://127.0.0.1:8000", "http://second:8000"});
//     client.collect(1000.0);                   // MeV; the shower's row
//     client.collect(65536.0);
//     qshower::Request request;
//     request.sampler = "gibbs";
//     request.seed = 1;
//     const qshower::Result<qshower::Showers> showers = client.flush(request);
//     if (!showers) std::cerr << showers.error().message << "\n";
//     else showers->row(0);                     // showers->voxels energies in MeV: layer slowest, then angle, then
//     radius
//
// A client belongs to one thread at a time. Its requests follow the rules of the Python client: what the first service
// does not take goes to the second at once; Retry-After is waited for; a request that was sent and whose answer was
// lost is sent nowhere else, unless it names a sampler that bills nothing.
#ifndef QSHOWER_HPP
#define QSHOWER_HPP

#include <curl/curl.h>

#include <algorithm>
#include <cassert>
#include <cctype>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <locale>
#include <map>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

namespace qshower {

enum class ErrorKind {
  argument,    // the request cannot be sent; nothing was
  connection,  // no answer: refused, timed out or lost
  incomplete,  // an answer began and did not end, or holds another number of showers
  bad_answer,  // an answer that is not what was asked for
  refused,     // the service said no: status, type, problem
  stopped,     // by the caller's function
};

// What went wrong. `type` is that of the service's problem, such as "urn:qshower:queue-full", `problem` its whole
// document; `retry_after_s` is negative where waiting does not help.
struct Error {
  ErrorKind kind = ErrorKind::connection;
  std::string message;
  int status = 0;
  std::string type;
  std::string problem;
  double retry_after_s = -1;
};

// A value, or the error in its place.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}
  Result(Error error) : state_(std::move(error)) {}

  explicit operator bool() const noexcept { return state_.index() == 0; }
  // Only where there is a value.
  T& operator*() { return *held<T>(); }
  const T& operator*() const { return *held<T>(); }
  T* operator->() { return held<T>(); }
  const T* operator->() const { return held<T>(); }
  // Only where there is none.
  const Error& error() const { return *held<Error>(); }

 private:
  template <typename U>
  U* held() {
    assert(std::holds_alternative<U>(state_));
    return std::get_if<U>(&state_);
  }
  template <typename U>
  const U* held() const {
    assert(std::holds_alternative<U>(state_));
    return std::get_if<U>(&state_);
  }

  std::variant<T, Error> state_;
};

// The services, the first one first, and how long to try.
struct Options {
  Options(std::initializer_list<std::string> urls_) : urls(urls_) {}

  std::vector<std::string> urls;
  std::string api_key;
  double timeout_s = 600;  // longest silence of a service, rounded up to whole seconds
  double connect_timeout_s = 10;
  double longest_wait_s =
      60;  // longest time, all pauses of a call together, to wait where services say when to try again
  double connect_wait_s = 0;  // the same where nobody listens
  std::string ca_file;        // of certificates, for https; empty: libcurl's own
};

// The fields of POST /generate. What is left out is the service's choice.
struct Request {
  std::vector<double> incident_energies_mev;
  int showers_per_energy = 1;
  std::string sampler = "auto";
  std::vector<std::string> fallback;
  std::string model;
  std::string solver;
  std::optional<std::uint64_t> seed;
  std::optional<double> threshold_mev;
  std::optional<double> deadline_s;
  std::string options_json;         // an object, such as {"sweeps": 64}
  std::optional<double> timeout_s;  // in place of the client's
};

// Showers in the order asked for, energies in MeV; geometry and provenance are JSON documents.
struct Showers {
  std::size_t count = 0;
  std::size_t voxels = 0;
  std::vector<double> incident_energies_mev;
  std::vector<float> showers_mev;
  std::string geometry;
  std::string provenance;
  const float* row(std::size_t shower) const { return showers_mev.data() + shower * voxels; }
};

// Some of the showers of a stream, the first of which is row `first` of the request; valid only during the call.
struct Batch {
  std::size_t first = 0;
  std::size_t count = 0;
  std::size_t voxels = 0;
  const double* incident_energies_mev = nullptr;
  const float* showers_mev = nullptr;
  const float* row(std::size_t shower) const { return showers_mev + shower * voxels; }
};

// What a stream ends with.
struct StreamEnd {
  std::size_t count = 0;
  std::string geometry;
  std::string provenance;
};

// Where a voxel's centre is: its layer, counted from 0, and mm across the shower's axis.
struct VoxelCentre {
  int layer = 0;
  double x_mm = 0;
  double y_mm = 0;
};

// What a request would take on a QPU: QPU access time in microseconds, that of a calibration on the way included, of
// which calibration_us is the calibration's; problems and reads to submit; conditions in all and side by side; spins of
// the model without a working qubit; and showers that cached reads would answer, at no cost.
struct Estimate {
  std::string model;
  std::string solver;
  std::string graph_id;
  double access_time_us = 0;
  double calibration_us = 0;
  std::uint64_t problems = 0;
  std::uint64_t reads = 0;
  std::uint64_t conditions = 0;
  std::uint64_t copies = 0;
  std::uint64_t missing_qubits = 0;
  std::uint64_t cached = 0;
};

namespace detail {

inline Error bad(std::string message) { return {ErrorKind::bad_answer, std::move(message), 0, "", "", -1}; }
inline Error incomplete(std::string message) { return {ErrorKind::incomplete, std::move(message), 0, "", "", -1}; }

// ---- JSON: what is sent, and the little that is read
// -----------------------------------------------------------------

inline std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\u%04x", static_cast<unsigned>(c));
      out += escaped;
    } else {
      out += c;
    }
  }
  return out + "\"";
}

inline std::string number(double value) {
  char text[40];
  std::snprintf(text, sizeof text, "%.17g", value);
  for (char* c = text; *c != 0; ++c) {
    if (*c == ',') *c = '.';  // a locale's decimal comma is no JSON
  }
  return text;
}

inline Result<std::string> body_of(const Request& request, bool dry_run) {
  for (double energy : request.incident_energies_mev) {
    if (!std::isfinite(energy)) return Error{ErrorKind::argument, "an incident energy is not finite", 0, "", "", -1};
  }
  for (const std::optional<double>& value : {request.threshold_mev, request.deadline_s}) {
    if (value && !std::isfinite(*value)) {
      return Error{ErrorKind::argument, "threshold_mev or deadline_s is not finite", 0, "", "", -1};
    }
  }
  std::string body = "{\"incident_energies_mev\":[";
  for (std::size_t i = 0; i < request.incident_energies_mev.size(); ++i) {
    body += (i != 0 ? "," : "") + number(request.incident_energies_mev[i]);
  }
  body += "],\"showers_per_energy\":" + std::to_string(request.showers_per_energy);
  body += ",\"sampler\":" + quoted(request.sampler) + ",\"fallback\":[";
  for (std::size_t i = 0; i < request.fallback.size(); ++i) body += (i != 0 ? "," : "") + quoted(request.fallback[i]);
  body += "]";
  if (!request.model.empty()) body += ",\"model\":" + quoted(request.model);
  if (!request.solver.empty()) body += ",\"solver\":" + quoted(request.solver);
  if (request.seed) body += ",\"seed\":" + std::to_string(*request.seed);
  if (request.threshold_mev) body += ",\"threshold_mev\":" + number(*request.threshold_mev);
  if (request.deadline_s) body += ",\"deadline_s\":" + number(*request.deadline_s);
  if (!request.options_json.empty()) body += ",\"options\":" + request.options_json;
  if (dry_run) body += ",\"dry_run\":true";
  return body + "}";
}

// Appends a code point as UTF-8.
inline void append_utf8(std::string& text, std::uint32_t c) {
  if (c < 0x80) {
    text += static_cast<char>(c);
  } else if (c < 0x800) {
    text += static_cast<char>(0xC0 | c >> 6);
    text += static_cast<char>(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    text += static_cast<char>(0xE0 | c >> 12);
    text += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    text += static_cast<char>(0x80 | (c & 0x3F));
  } else {
    text += static_cast<char>(0xF0 | c >> 18);
    text += static_cast<char>(0x80 | (c >> 12 & 0x3F));
    text += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    text += static_cast<char>(0x80 | (c & 0x3F));
  }
}

// A JSON value; numbers, true, false and null as they are written.
struct Json {
  enum class Kind { text, word, list, object };
  Kind kind = Kind::word;
  std::string text;
  std::vector<Json> items;
  std::vector<std::string> names;  // of an object's items

  const Json* find(const char* name) const {
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (names[i] == name) return &items[i];
    }
    return nullptr;
  }

  std::optional<double> real() const {
    if (kind != Kind::word) return std::nullopt;
    std::istringstream stream(text);  // not strtod: in some locales it stops at the point
    stream.imbue(std::locale::classic());
    double parsed = 0;
    if (!(stream >> parsed) || stream.peek() != std::istringstream::traits_type::eof()) return std::nullopt;
    return parsed;
  }

  std::optional<std::uint64_t> count() const {
    const bool digits = kind == Kind::word && text.find_first_not_of("0123456789") == std::string::npos;
    if (!digits || text.empty()) return std::nullopt;
    return std::strtoull(text.c_str(), nullptr, 10);
  }
};

class JsonParser {
 public:
  static std::optional<Json> parse(std::string_view text) {
    JsonParser parser(text);
    Json value;
    if (!parser.value(value, 0)) return std::nullopt;
    parser.skip();
    if (parser.at_ != text.size()) return std::nullopt;
    return value;
  }

 private:
  static constexpr int deepest = 64;

  explicit JsonParser(std::string_view text) : text_(text) {}

  void skip() {
    while (at_ < text_.size() && std::strchr(" \t\r\n", text_[at_]) != nullptr && text_[at_] != 0) ++at_;
  }

  bool took(char wanted) {
    skip();
    if (at_ == text_.size() || text_[at_] != wanted) return false;
    ++at_;
    return true;
  }

  bool value(Json& out, int depth) {
    skip();
    if (at_ == text_.size() || depth > deepest) return false;
    const char first = text_[at_];
    if (first == '"') {
      out.kind = Json::Kind::text;
      return string(out.text);
    }
    if (first == '{' || first == '[') {
      const bool object = first == '{';
      const char end = object ? '}' : ']';
      out.kind = object ? Json::Kind::object : Json::Kind::list;
      ++at_;
      if (took(end)) return true;
      do {
        if (object) {
          skip();
          out.names.emplace_back();
          if (at_ == text_.size() || !string(out.names.back()) || !took(':')) return false;
        }
        out.items.emplace_back();
        if (!value(out.items.back(), depth + 1)) return false;
      } while (took(','));
      return took(end);
    }
    const std::size_t begin = at_;
    while (at_ < text_.size() && (std::isalnum(static_cast<unsigned char>(text_[at_])) != 0 || text_[at_] == '+' ||
                                  text_[at_] == '-' || text_[at_] == '.')) {
      ++at_;
    }
    out.text = std::string(text_.substr(begin, at_ - begin));
    return at_ != begin;
  }

  bool hexadecimal(std::uint32_t& code) {
    if (text_.size() - at_ < 4) return false;
    code = 0;
    for (int digit = 0; digit < 4; ++digit) {
      const char c = text_[at_++];
      const int value = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (value < 0) return false;
      code = code << 4 | static_cast<std::uint32_t>(value);
    }
    return true;
  }

  bool string(std::string& out) {
    if (text_[at_] != '"') return false;
    ++at_;
    while (at_ < text_.size() && text_[at_] != '"') {
      if (text_[at_] != '\\') {
        out += text_[at_++];
        continue;
      }
      if (++at_ == text_.size()) return false;
      const char kind = text_[at_++];
      if (kind == 'u') {
        std::uint32_t code = 0;
        if (!hexadecimal(code)) return false;
        if (code >= 0xD800 && code < 0xDC00 && text_.substr(at_, 2) == "\\u") {
          at_ += 2;
          std::uint32_t low = 0;
          if (!hexadecimal(low)) return false;
          code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
        }
        append_utf8(out, code);
        continue;
      }
      const char* const from = "\"\\/bfnrt";
      const char* found = kind == 0 ? nullptr : std::strchr(from, kind);
      if (found == nullptr) return false;
      out += "\"\\/\b\f\n\r\t"[found - from];
    }
    if (at_ == text_.size()) return false;
    ++at_;
    return true;
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

inline Result<Estimate> estimate_of(const std::string& answer) {
  const std::optional<Json> document = JsonParser::parse(answer);
  const Json* given = document ? document->find("estimate") : nullptr;
  if (given == nullptr) return bad("the answer to a dry run holds no estimate");
  Estimate estimate;
  for (auto [name, into] :
       {std::pair{"model", &estimate.model}, {"solver", &estimate.solver}, {"graph_id", &estimate.graph_id}}) {
    const Json* value = given->find(name);
    if (value == nullptr || value->kind != Json::Kind::text) return bad(std::string("the estimate holds no ") + name);
    *into = value->text;
  }
  for (auto [name, into] :
       {std::pair{"access_time_us", &estimate.access_time_us}, {"calibration_us", &estimate.calibration_us}}) {
    const Json* value = given->find(name);
    const std::optional<double> parsed = value != nullptr ? value->real() : std::nullopt;
    if (!parsed) return bad(std::string("the estimate holds no ") + name);
    *into = *parsed;
  }
  for (auto [name, into] : {std::pair{"problems", &estimate.problems},
                            {"reads", &estimate.reads},
                            {"conditions", &estimate.conditions},
                            {"copies", &estimate.copies},
                            {"missing_qubits", &estimate.missing_qubits},
                            {"cached", &estimate.cached}}) {
    const Json* value = given->find(name);
    const std::optional<std::uint64_t> parsed = value != nullptr ? value->count() : std::nullopt;
    if (!parsed) return bad(std::string("the estimate holds no ") + name);
    *into = *parsed;
  }
  return estimate;
}

// ---- npz, read as it arrives
// -----------------------------------------------------------------------------------------

// The rows of `showers_mev` are handed on as they come; the other members are kept whole.
class NpzReader {
 public:
  // Takes rows: how many, voxels each, and their energies; false to stop.
  using TakeRows = std::function<bool(std::size_t, std::size_t, const float*)>;

  NpzReader(std::size_t expected, TakeRows take) : expected_(expected), take_(std::move(take)) {}

  std::vector<double> energies;
  std::string geometry;
  std::string provenance;
  std::size_t count = 0;
  std::size_t voxels = 0;

  // False at the first error: see `error`.
  bool feed(const char* data, std::size_t size) {
    pending_.append(data, size);
    while (!error_ && step()) {
    }
    if (at_ > 0) pending_.erase(0, at_);
    at_ = 0;
    return !error_;
  }

  // The error, if there was one or the file is not whole.
  std::optional<Error> finish() {
    if (error_) return error_;
    const bool whole = state_ == State::directory && pending_.rfind("PK\x05\x06") != std::string::npos;
    if (!begun_) return bad("the answer is no npz file");
    if (!whole) return incomplete("the answer is cut short");
    if (!has_energies_ || !has_showers_ || geometry.empty() || provenance.empty()) {
      return bad("the answer lacks energies, showers, geometry or provenance");
    }
    if (count != expected_ || energies.size() != expected_)
      return incomplete("the answer holds another number of showers");
    return std::nullopt;
  }

 private:
  enum class State { header, array, rows, whole, descriptor, directory };

  std::size_t left() const { return pending_.size() - at_; }
  const char* here() const { return pending_.data() + at_; }

  std::uint64_t integer(std::size_t offset, std::size_t bytes) const {
    std::uint64_t value = 0;
    for (std::size_t i = bytes; i-- > 0;) value = value << 8 | static_cast<unsigned char>(here()[offset + i]);
    return value;
  }

  bool fail(Error error) {
    error_ = std::move(error);
    return false;
  }

  // One step on; false if more bytes are needed, or at an error.
  bool step() {
    switch (state_) {
      case State::header:
        return header();
      case State::array:
        return array();
      case State::rows:
        return rows();
      case State::whole:
        return whole();
      case State::descriptor:
        return descriptor();
      case State::directory:
        return false;
    }
    return false;
  }

  bool header() {
    if (left() < 4) return false;
    const std::uint64_t signature = integer(0, 4);
    if (begun_ && signature == 0x02014b50) {
      state_ = State::directory;
      return true;
    }
    if (signature != 0x04034b50)
      return fail(bad(begun_ ? "the answer's npz file is broken" : "the answer is no npz file"));
    begun_ = true;
    if (left() < 30) return false;
    const std::size_t name_length = integer(26, 2), extra = integer(28, 2);
    if (left() < 30 + name_length + extra) return false;
    if (integer(8, 2) != 0) return fail(bad("the answer's npz file is compressed"));
    described_ = (integer(6, 2) & 8) != 0;
    name_.assign(here() + 30, name_length);
    at_ += 30 + name_length + extra;
    state_ = State::array;
    return true;
  }

  bool array() {
    if (left() < 12) return false;
    if (std::memcmp(here(), "\x93NUMPY", 6) != 0) return fail(bad("the answer holds something that is no numpy array"));
    const bool wide = integer(6, 1) > 1;
    const std::size_t length = integer(8, wide ? 4 : 2), begin = wide ? 12 : 10;
    if (left() < begin + length) return false;
    const std::string_view text(here() + begin, length);
    const std::size_t descr = text.find("'descr': '"), shape = text.find("'shape': ("), end = text.find(')', shape);
    if (descr == std::string_view::npos || shape == std::string_view::npos || end == std::string_view::npos ||
        text.find("'fortran_order': False") == std::string_view::npos) {
      return fail(bad("a numpy array with a header that is not understood"));
    }
    kind_ = std::string(text.substr(descr + 10, text.find('\'', descr + 10) - descr - 10));
    std::vector<std::size_t> extents;
    for (std::size_t i = shape + 10; i < end; ++i) {
      if (text[i] < '0' || text[i] > '9') continue;
      char* rest = nullptr;
      extents.push_back(std::strtoull(text.data() + i, &rest, 10));
      i = static_cast<std::size_t>(rest - text.data());
    }
    at_ += begin + length;
    return begin_array(extents);
  }

  bool begin_array(const std::vector<std::size_t>& extents) {
    std::size_t values = 1;
    for (std::size_t extent : extents) values *= extent;
    if (name_ == "showers_mev.npy") {
      if (kind_ != "<f4" || extents.size() != 2) return fail(bad("the answer's showers are no table of float32"));
      if (extents[0] != expected_) return fail(incomplete("the answer holds another number of showers"));
      voxels = extents[1];
      has_showers_ = true;
      state_ = State::rows;
      return true;
    }
    const bool energies_wanted = name_ == "incident_energies_mev.npy";
    const bool text = kind_.compare(0, 2, "<U") == 0;
    if (energies_wanted ? kind_ != "<f8" : !text) return fail(bad("the answer's " + name_ + " is of type " + kind_));
    if (energies_wanted && values != expected_) return fail(incomplete("the answer holds another number of energies"));
    const std::size_t characters = text ? std::strtoull(kind_.c_str() + 2, nullptr, 10) : 0;
    remaining_ = text ? 4 * characters * values : 8 * values;
    state_ = State::whole;
    return true;
  }

  // Copied as they are, so the machine must be little-endian as the file is.
  bool rows() {
    const std::size_t row = voxels * sizeof(float);
    const std::size_t here_now = row == 0 ? expected_ - count : std::min(left() / row, expected_ - count);
    if (here_now > 0) {
      block_.resize(here_now * voxels);
      if (!block_.empty()) std::memcpy(block_.data(), here(), here_now * row);
      at_ += here_now * row;
      count += here_now;
      if (!take_(here_now, voxels, block_.data())) return fail({ErrorKind::stopped, "stopped", 0, "", "", -1});
    }
    if (count < expected_) return false;
    state_ = described_ ? State::descriptor : State::header;
    return true;
  }

  bool whole() {
    if (left() < remaining_) return false;
    if (name_ == "incident_energies_mev.npy") {
      energies.resize(remaining_ / sizeof(double));
      if (!energies.empty()) std::memcpy(energies.data(), here(), remaining_);
      has_energies_ = true;
    } else {
      std::string text;  // UCS-4
      for (std::size_t i = 0; i + 4 <= remaining_ && integer(i, 4) != 0; i += 4) {
        append_utf8(text, static_cast<std::uint32_t>(integer(i, 4)));
      }
      if (name_ == "geometry.npy") geometry = std::move(text);
      if (name_ == "provenance.npy") provenance = std::move(text);
    }
    at_ += remaining_;
    state_ = described_ ? State::descriptor : State::header;
    return true;
  }

  // What follows a member whose sizes were not known before: 16 bytes, or 24 where they need 64 bits.
  bool descriptor() {
    if (left() < 28) return false;
    if (integer(0, 4) != 0x08074b50) return fail(bad("the answer's npz file is broken"));
    const std::uint64_t next = integer(16, 4);
    at_ += next == 0x04034b50 || next == 0x02014b50 ? 16 : 24;
    state_ = State::header;
    return true;
  }

  std::size_t expected_;
  TakeRows take_;
  State state_ = State::header;
  std::string pending_;
  std::size_t at_ = 0;
  std::string name_;
  std::string kind_;
  std::size_t remaining_ = 0;
  std::vector<float> block_;
  bool begun_ = false;
  bool described_ = false;
  bool has_energies_ = false;
  bool has_showers_ = false;
  std::optional<Error> error_;
};

// ---- HTTP
// ------------------------------------------------------------------------------------------------------------

struct Response {
  CURL* easy = nullptr;
  const char* accept = nullptr;
  const std::function<bool(const char*, std::size_t)>* sink = nullptr;  // of an answer that is as it was asked for
  int status = 0;
  std::string kind = {};
  std::string body = {};  // of any other
  std::size_t taken = 0;
  bool stopped = false;
  double retry_after_s = -1;
  CURLcode code = CURLE_OK;
  std::string failure = {};

  bool as_asked() const { return kind.compare(0, std::strlen(accept), accept) == 0; }

  void read_head() {
    long answered = 0;
    const char* content_type = nullptr;
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &answered);
    curl_easy_getinfo(easy, CURLINFO_CONTENT_TYPE, &content_type);
    status = static_cast<int>(answered);
    kind = content_type != nullptr ? content_type : "";
  }
};

inline std::size_t take_body(char* data, std::size_t, std::size_t size, void* into) {
  Response& response = *static_cast<Response*>(into);
  if (response.status == 0) response.read_head();
  if (response.status != 200 || !response.as_asked()) {
    response.body.append(data, size);
    return size;
  }
  response.taken += size;
  response.stopped = !(*response.sink)(data, size);
  return response.stopped ? 0 : size;  // less than all ends the transfer
}

inline void start_curl() {
  struct Global {
    Global() { curl_global_init(CURL_GLOBAL_DEFAULT); }
  };
  static const Global once;
  static_cast<void>(once);
}

struct EasyEnd {
  void operator()(CURL* easy) const { curl_easy_cleanup(easy); }
};
struct ListEnd {
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};

// Whether a draw by this sampler costs nothing and uses nothing up.
inline bool unbilled(const std::string& sampler) {
  return sampler == "gibbs" || sampler == "annealing" || sampler == "tempering";
}

}  // namespace detail

// The centres of the voxels of `geometry`, a JSON document as in Showers, in the order of a row.
inline Result<std::vector<VoxelCentre>> voxel_centres(const std::string& geometry) {
  const std::optional<detail::Json> document = detail::JsonParser::parse(geometry);
  const detail::Json* layers = document ? document->find("layers") : nullptr;
  if (layers == nullptr || layers->items.empty()) return detail::bad("the geometry has no layers");
  std::vector<VoxelCentre> centres;
  for (std::size_t layer = 0; layer < layers->items.size(); ++layer) {
    const detail::Json* edges = layers->items[layer].find("r_edges_mm");
    const detail::Json* bins = layers->items[layer].find("angular_bins");
    const std::uint64_t angular = bins != nullptr ? bins->count().value_or(0) : 0;
    if (edges == nullptr || edges->items.size() < 2 || angular == 0) {
      return detail::bad("a layer of the geometry has no r_edges_mm or angular_bins");
    }
    const double step = 2 * 3.141592653589793 / static_cast<double>(angular);
    for (std::uint64_t angle = 0; angle < angular; ++angle) {
      const double alpha = -3.141592653589793 + step * (static_cast<double>(angle) + 0.5);
      for (std::size_t radius = 0; radius + 1 < edges->items.size(); ++radius) {
        const double r =
            (edges->items[radius].real().value_or(NAN) + edges->items[radius + 1].real().value_or(NAN)) / 2;
        if (!std::isfinite(r)) return detail::bad("an edge of the geometry is no number");
        centres.push_back({static_cast<int>(layer), r * std::cos(alpha), r * std::sin(alpha)});
      }
    }
  }
  return centres;
}

class Client {
 public:
  explicit Client(Options options = {"http://127.0.0.1:8000"}) : options_(std::move(options)) {
    detail::start_curl();
    for (std::string& url : options_.urls) {
      while (!url.empty() && url.back() == '/') url.pop_back();
    }
    easy_.reset(curl_easy_init());
  }

  // Note that a shower of this energy is wanted; its row in the next flush.
  std::size_t collect(double incident_energy_mev) {
    collected_.push_back(incident_energy_mev);
    return collected_.size() - 1;
  }

  // How many showers are wanted.
  std::size_t collected() const { return collected_.size(); }

  // Forget what was collected.
  void discard() { collected_.clear(); }

  // Draw all showers that were collected, in one request; `request` says how (its energies are not used). If nothing
  // was collected, nothing is sent. After an error what was collected is still there, for another try.
  Result<Showers> flush(Request request = {}) {
    if (collected_.empty()) return Showers{};
    request.incident_energies_mev = collected_;
    Result<Showers> showers = generate(request);
    if (showers) collected_.clear();
    return showers;
  }

  // One shower for each energy, `showers_per_energy` times.
  Result<Showers> generate(const Request& request) {
    Showers showers;
    detail::NpzReader reader(
        expected(request), [&showers, &request](std::size_t rows, std::size_t voxels, const float* energies) {
          if (showers.showers_mev.empty()) showers.showers_mev.reserve(expected(request) * voxels);
          showers.showers_mev.insert(showers.showers_mev.end(), energies, energies + rows * voxels);
          return true;
        });
    if (std::optional<Error> error = read(request, reader)) return *error;
    showers.count = reader.count;
    showers.voxels = reader.voxels;
    showers.incident_energies_mev = std::move(reader.energies);
    showers.geometry = std::move(reader.geometry);
    showers.provenance = std::move(reader.provenance);
    return showers;
  }

  // As generate, but `take` gets the showers as they come, and none are kept: for more than fit into memory. It returns
  // false to stop. If it was called and an error follows, what it got is right, but not all.
  Result<StreamEnd> stream(const Request& request, const std::function<bool(const Batch&)>& take) {
    std::size_t first = 0;
    const detail::NpzReader* from = nullptr;
    detail::NpzReader reader(expected(request), [&](std::size_t rows, std::size_t voxels, const float* energies) {
      if (from->energies.size() < first + rows) return false;  // the service sends energies first
      const Batch batch{first, rows, voxels, from->energies.data() + first, energies};
      first += rows;
      return take(batch);
    });
    from = &reader;
    if (std::optional<Error> error = read(request, reader)) return *error;
    return StreamEnd{reader.count, std::move(reader.geometry), std::move(reader.provenance)};
  }

  // What the request would take on a QPU: a dry run, which draws and bills nothing. An error of status 422 if the
  // request's sampler bills nothing.
  Result<Estimate> estimate(const Request& request) {
    std::string answer;
    const Sink sink = [&answer](const char* data, std::size_t size) {
      answer.append(data, size);
      return true;
    };
    if (std::optional<Error> error = ask(request, "application/json", true, sink)) return *error;
    return detail::estimate_of(answer);
  }

 private:
  // Takes the body of an answer of status 200, block by block; false to stop.
  using Sink = std::function<bool(const char*, std::size_t)>;

  static std::size_t expected(const Request& request) {
    return request.incident_energies_mev.size() * static_cast<std::size_t>(std::max(0, request.showers_per_energy));
  }

  std::optional<Error> read(const Request& request, detail::NpzReader& reader) {
    const std::optional<Error> error =
        ask(request, "application/x-npz", false,
            [&reader](const char* data, std::size_t size) { return reader.feed(data, size); });
    return error ? error : reader.finish();
  }

  // Sent until it is answered, refused for good, or the waiting is over; the answer goes into `sink`.
  std::optional<Error> ask(const Request& request, const char* accept, bool dry_run, const Sink& sink) {
    const Result<std::string> body = detail::body_of(request, dry_run);
    if (!body) return body.error();
    if (options_.urls.empty()) return Error{ErrorKind::argument, "the client has no URL", 0, "", "", -1};
    bool repeatable = dry_run || detail::unbilled(request.sampler);
    for (const std::string& other : request.fallback) repeatable = repeatable && (dry_run || detail::unbilled(other));
    double waited_service = 0, waited_connection = 0, pause = 0.2;
    for (;;) {
      std::optional<Error> first;
      double shortest = -1;
      bool of_service = false;
      for (std::size_t i = 0; i < options_.urls.size(); ++i) {
        detail::Response response{easy_.get(), accept, &sink};
        send(response, options_.urls[i], *body, request.timeout_s, repeatable);
        const bool nobody = response.code == CURLE_COULDNT_CONNECT || response.code == CURLE_COULDNT_RESOLVE_HOST ||
                            response.code == CURLE_COULDNT_RESOLVE_PROXY;
        if (response.status == 200 && !response.as_asked()) {
          return detail::bad(std::string("asked for ") + accept + ", got " + response.kind);
        }
        // An error of what reads the answer is told by that.
        if (response.status == 200 && (response.code == CURLE_OK || response.stopped)) return std::nullopt;
        // What was handed on cannot be taken back.
        if (response.taken > 0) return error_of(options_.urls[i], response);
        Error error = error_of(options_.urls[i], response);
        const bool later = error.kind == ErrorKind::refused && (error.status == 429 || error.status == 503);
        const bool last = i + 1 == options_.urls.size();
        if (!later && !nobody && (error.kind == ErrorKind::refused || !repeatable || last)) return error;
        const double wait = later ? error.retry_after_s : nobody ? pause : -1;
        const bool allowed = wait >= 0 && (later ? waited_service + wait <= options_.longest_wait_s
                                                 : waited_connection + wait <= options_.connect_wait_s);
        if (allowed && (shortest < 0 || wait < shortest)) {
          shortest = wait;
          of_service = later;
        }
        if (!first) {
          first = std::move(error);
        } else {
          first->message += "; " + (later ? options_.urls[i] + ": " : std::string()) + error.message;
        }
      }
      if (shortest < 0) return *first;
      (of_service ? waited_service : waited_connection) += shortest;
      pause *= 2;
      std::this_thread::sleep_for(std::chrono::duration<double>(shortest));
    }
  }

  void send(detail::Response& response, const std::string& url, const std::string& body,
            const std::optional<double>& timeout_s, bool repeatable) {
    CURL* const easy = easy_.get();
    if (easy == nullptr) {
      response.code = CURLE_FAILED_INIT;
      response.failure = "libcurl could not be started";
      return;
    }
    curl_easy_reset(easy);
    std::unique_ptr<curl_slist, detail::ListEnd> headers;
    const std::string accepted = std::string("Accept: ") + response.accept,
                      key = "Authorization: Bearer " + options_.api_key;
    for (const char* header : {"Content-Type: application/json", "Expect:", accepted.c_str(), key.c_str()}) {
      if (header == key.c_str() && options_.api_key.empty()) continue;
      headers.reset(curl_slist_append(headers.release(), header));
    }
    char message[CURL_ERROR_SIZE] = "";
    const double silence_s = std::ceil(timeout_s ? *timeout_s : options_.timeout_s);
    curl_easy_setopt(easy, CURLOPT_URL, (url + "/generate").c_str());
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers.get());
    curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body.c_str());
    curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body.size()));
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, &detail::take_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, &response);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, &message[0]);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(1000 * options_.connect_timeout_s));
    curl_easy_setopt(easy, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(easy, CURLOPT_LOW_SPEED_TIME, static_cast<long>(silence_s));
    if (!options_.ca_file.empty()) curl_easy_setopt(easy, CURLOPT_CAINFO, options_.ca_file.c_str());
    // On a connection that was used before, libcurl itself sends again what it takes for unread.
    curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, repeatable ? 0L : 1L);
    response.code = curl_easy_perform(easy);
    response.failure = message[0] != 0 ? message : curl_easy_strerror(response.code);
    response.read_head();
    curl_off_t after = 0;
    curl_easy_getinfo(easy, CURLINFO_RETRY_AFTER, &after);  // in seconds, also where it is a date; 0: none
    if (after > 0) response.retry_after_s = static_cast<double>(after);
  }

  static Error error_of(const std::string& url, const detail::Response& response) {
    if (response.code != CURLE_OK) {
      const bool begun = response.status != 0;
      Error error{begun ? ErrorKind::incomplete : ErrorKind::connection, url + ": " + response.failure, 0, "", "", -1};
      return error;
    }
    Error error{ErrorKind::refused, "", response.status, "", response.body, response.retry_after_s};
    const std::optional<detail::Json> problem = detail::JsonParser::parse(response.body);
    const detail::Json* type = problem ? problem->find("type") : nullptr;
    const detail::Json* said = problem ? problem->find("detail") : nullptr;
    if (type != nullptr) error.type = type->text;
    error.message = "HTTP " + std::to_string(response.status) + ": " +
                    (said != nullptr ? said->text : response.body.substr(0, 200));
    return error;
  }

  Options options_;
  std::vector<double> collected_;
  std::unique_ptr<CURL, detail::EasyEnd> easy_;
};

}  // namespace qshower

#endif
