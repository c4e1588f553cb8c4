// A C++17 client of the qshower service in one header: POSIX sockets and the standard library, nothing else.
//
//     qshower::Client client("127.0.0.1", 8000);
//     qshower::Request request;
//     request.incident_energies_mev = {1000.0, 65536.0};
//     request.seed = 1;
//     qshower::Showers showers = client.generate(request);
//     const float* first = showers.row(0);  // showers.voxels energies in MeV: layer slowest, then angle, then radius
//
//     request.sampler = "qpu";
//     double cost_us = client.estimate(request).access_time_us;  // a dry run: nothing is drawn, nothing billed
//
// A client keeps one connection and belongs to one thread at a time. Plain HTTP only: put TLS into a proxy.
#ifndef QSHOWER_HPP
#define QSHOWER_HPP

#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <locale>
#include <map>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace qshower {

// No answer, or one that is not what was asked for.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The service said no. `problem` is its problem+json document; `retry_after_s` is negative where waiting does not help.
class Refused : public Error {
 public:
  Refused(int status_, std::string problem_, int retry_after_s_)
      : Error("HTTP " + std::to_string(status_) + ": " + problem_),
        status(status_),
        problem(std::move(problem_)),
        retry_after_s(retry_after_s_) {}
  int status;
  std::string problem;
  int retry_after_s;
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
  std::string options_json;  // an object, such as {"sweeps": 64}
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

inline std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (unsigned char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c < 0x20) {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\u%04x", c);
      out += escaped;
    } else {
      out += static_cast<char>(c);
    }
  }
  return out + "\"";
}

inline std::string number(double value) {
  if (!std::isfinite(value)) throw Error("a number of the request is not finite");
  char text[40];
  std::snprintf(text, sizeof text, "%.17g", value);
  for (char* c = text; *c != 0; ++c) {
    if (*c == ',') *c = '.';  // a locale's decimal comma is no JSON
  }
  return text;
}

inline std::string body_of(const Request& request, bool dry_run) {
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

// Reads the one kind of JSON a dry run is answered with: {"estimate": {name: text or number, ...}}.
class EstimateParser {
 public:
  explicit EstimateParser(const std::string& text) : text_(text) {}

  Estimate parse() {
    expect('{');
    if (string() != "estimate") throw Error("the answer to a dry run holds no estimate");
    expect(':');
    expect('{');
    std::map<std::string, std::string> values;
    do {
      const std::string name = string();
      expect(':');
      values[name] = next() == '"' ? string() : number_text();
    } while (took(','));
    expect('}');
    expect('}');
    Estimate estimate;
    estimate.model = value(values, "model");
    estimate.solver = value(values, "solver");
    estimate.graph_id = value(values, "graph_id");
    estimate.access_time_us = real(values, "access_time_us");
    estimate.calibration_us = real(values, "calibration_us");
    estimate.problems = count(values, "problems");
    estimate.reads = count(values, "reads");
    estimate.conditions = count(values, "conditions");
    estimate.copies = count(values, "copies");
    estimate.missing_qubits = count(values, "missing_qubits");
    estimate.cached = count(values, "cached");
    return estimate;
  }

 private:
  char next() {
    while (at_ < text_.size() && std::strchr(" \t\r\n", text_[at_]) != nullptr) ++at_;
    if (at_ == text_.size()) throw Error("the answer to a dry run is cut short");
    return text_[at_];
  }

  bool took(char wanted) {
    if (next() != wanted) return false;
    ++at_;
    return true;
  }

  void expect(char wanted) {
    if (!took(wanted)) throw Error("the answer to a dry run is no estimate");
  }

  std::uint32_t hexadecimal() {
    if (text_.size() - at_ < 4) throw Error("the answer to a dry run is cut short");
    std::uint32_t code = 0;
    for (int digit = 0; digit < 4; ++digit) {
      const char c = text_[at_++];
      const char* found = std::strchr("0123456789abcdef", c >= 'A' && c <= 'F' ? c - 'A' + 'a' : c);
      if (found == nullptr || c == 0) throw Error("the answer to a dry run is no JSON");
      code = code << 4 | static_cast<std::uint32_t>(std::strlen("0123456789abcdef") - std::strlen(found));
    }
    return code;
  }

  std::string string() {
    expect('"');
    std::string out;
    while (at_ < text_.size() && text_[at_] != '"') {
      if (text_[at_] != '\\') {
        out += text_[at_++];
        continue;
      }
      if (++at_ == text_.size()) break;
      const char kind = text_[at_++];
      if (kind == 'u') {
        std::uint32_t code = hexadecimal();
        if (code >= 0xD800 && code < 0xDC00 && text_.compare(at_, 2, "\\u") == 0) {
          at_ += 2;
          code = 0x10000 + ((code - 0xD800) << 10) + (hexadecimal() - 0xDC00);
        }
        append_utf8(out, code);
        continue;
      }
      const char* const from = "\"\\/bfnrt";
      const char* found = kind == 0 ? nullptr : std::strchr(from, kind);
      if (found == nullptr) throw Error("the answer to a dry run is no JSON");
      out += "\"\\/\b\f\n\r\t"[found - from];
    }
    expect('"');
    return out;
  }

  std::string number_text() {
    const std::size_t begin = at_;
    while (at_ < text_.size() && text_[at_] != 0 && std::strchr("+-.0123456789eE", text_[at_]) != nullptr) ++at_;
    if (at_ == begin) throw Error("the answer to a dry run holds something that is neither text nor a number");
    return text_.substr(begin, at_ - begin);
  }

  static const std::string& value(const std::map<std::string, std::string>& values, const char* name) {
    const auto found = values.find(name);
    if (found == values.end()) throw Error(std::string("the estimate holds no ") + name);
    return found->second;
  }

  static double real(const std::map<std::string, std::string>& values, const char* name) {
    // Not strtod: in some locales it stops at the point.
    std::istringstream stream(value(values, name));
    stream.imbue(std::locale::classic());
    double parsed = 0;
    if (!(stream >> parsed) || stream.peek() != std::istringstream::traits_type::eof()) {
      throw Error(std::string("the estimate's ") + name + " is no number");
    }
    return parsed;
  }

  static std::uint64_t count(const std::map<std::string, std::string>& values, const char* name) {
    const std::string& text = value(values, name);
    if (text.empty() || text.find_first_not_of("0123456789") != std::string::npos) {
      throw Error(std::string("the estimate's ") + name + " is no count");
    }
    return std::strtoull(text.c_str(), nullptr, 10);
  }

  const std::string& text_;
  std::size_t at_ = 0;
};

// Little-endian integer of `bytes` bytes; Error beyond the end.
inline std::uint64_t integer(const std::string& data, std::size_t at, std::size_t bytes) {
  if (at > data.size() || bytes > data.size() - at) throw Error("the answer is cut short");
  std::uint64_t value = 0;
  for (std::size_t i = bytes; i-- > 0;) value = value << 8 | static_cast<unsigned char>(data[at + i]);
  return value;
}

struct Array {
  std::string kind;
  std::vector<std::size_t> shape;
  std::string data;
};

// One .npy file.
inline Array parse_npy(const std::string& file) {
  if (file.compare(0, 6, "\x93NUMPY") != 0) throw Error("the answer holds something that is no numpy array");
  const bool wide = integer(file, 6, 1) > 1;
  const std::size_t length = integer(file, 8, wide ? 4 : 2), begin = wide ? 12 : 10;
  if (length > file.size() - begin) throw Error("the answer is cut short");
  const std::string header = file.substr(begin, length);
  Array array;
  const std::size_t descr = header.find("'descr':"), shape = header.find("'shape':");
  if (descr == std::string::npos || shape == std::string::npos) throw Error("a numpy array without descr or shape");
  const std::size_t open = header.find('\'', descr + 8), close = header.find('\'', open + 1);
  const std::size_t left = header.find('(', shape), right = header.find(')', shape);
  if (close == std::string::npos || right == std::string::npos) throw Error("a numpy array with a broken header");
  array.kind = header.substr(open + 1, close - open - 1);
  if (header.find("'fortran_order': False") == std::string::npos) throw Error("a numpy array in Fortran order");
  std::string digits;
  for (std::size_t i = left + 1; i <= right; ++i) {
    if (header[i] >= '0' && header[i] <= '9') {
      digits += header[i];
    } else if (!digits.empty()) {
      array.shape.push_back(std::strtoull(digits.c_str(), nullptr, 10));
      digits.clear();
    }
  }
  array.data = file.substr(begin + length);
  return array;
}

// The stored (never compressed) members of a .npz file, by name without ".npy".
inline std::map<std::string, Array> parse_npz(const std::string& file) {
  const std::size_t end = file.rfind("PK\x05\x06");
  if (end == std::string::npos) throw Error("the answer is no npz file, or is cut short");
  const std::size_t members = integer(file, end + 10, 2);
  std::size_t at = integer(file, end + 16, 4);
  std::map<std::string, Array> arrays;
  for (std::size_t member = 0; member < members; ++member) {
    if (integer(file, at, 4) != 0x02014b50) throw Error("the answer's npz directory is broken");
    const std::size_t size = integer(file, at + 24, 4), name_length = integer(file, at + 28, 2);
    const std::size_t extra = integer(file, at + 30, 2), comment = integer(file, at + 32, 2);
    const std::size_t local = integer(file, at + 42, 4);
    if (integer(file, at + 10, 2) != 0) throw Error("the answer's npz file is compressed");
    std::string name = file.substr(at + 46, name_length);
    const std::size_t data = local + 30 + integer(file, local + 26, 2) + integer(file, local + 28, 2);
    if (data > file.size() || size > file.size() - data) throw Error("the answer is cut short");
    if (name.size() > 4) name.resize(name.size() - 4);
    arrays.emplace(std::move(name), parse_npy(file.substr(data, size)));
    at += 46 + name_length + extra + comment;
  }
  return arrays;
}

// A numpy text scalar (UCS-4) as UTF-8.
inline std::string text_of(const Array& array) {
  if (array.kind.compare(0, 2, "<U") != 0) throw Error("the answer holds " + array.kind + " in place of text");
  std::string text;
  for (std::size_t at = 0; at + 4 <= array.data.size(); at += 4) {
    const std::uint32_t c = static_cast<std::uint32_t>(integer(array.data, at, 4));
    if (c == 0) break;
    append_utf8(text, c);
  }
  return text;
}

// The numbers of an array of little-endian `T`; copied as they are, so the machine must be little-endian too.
template <typename T>
std::vector<T> numbers_of(const Array& array, const char* kind) {
  std::size_t count = 1;
  for (std::size_t extent : array.shape) count *= extent;
  if (array.kind != kind || array.data.size() != count * sizeof(T)) {
    throw Error("the answer's array has another type or size than its header says");
  }
  std::vector<T> values(count);
  if (count != 0) std::memcpy(values.data(), array.data.data(), array.data.size());
  return values;
}

inline Showers showers_of(const std::string& file, std::size_t expected) {
  const std::map<std::string, Array> arrays = parse_npz(file);
  for (const char* name : {"incident_energies_mev", "showers_mev", "geometry", "provenance"}) {
    if (arrays.find(name) == arrays.end()) throw Error(std::string("the answer holds no ") + name);
  }
  const Array& values = arrays.at("showers_mev");
  if (values.shape.size() != 2 || values.shape[0] != expected) throw Error("the answer holds another number of showers");
  Showers showers;
  showers.count = values.shape[0];
  showers.voxels = values.shape[1];
  showers.incident_energies_mev = numbers_of<double>(arrays.at("incident_energies_mev"), "<f8");
  showers.showers_mev = numbers_of<float>(values, "<f4");
  showers.geometry = text_of(arrays.at("geometry"));
  showers.provenance = text_of(arrays.at("provenance"));
  if (showers.incident_energies_mev.size() != expected) throw Error("the answer holds another number of energies");
  return showers;
}

}  // namespace detail

class Client {
 public:
  explicit Client(std::string host = "127.0.0.1", int port = 8000, std::string api_key = "", int timeout_s = 600)
      : host_(std::move(host)), port_(port), api_key_(std::move(api_key)), timeout_s_(timeout_s) {}
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;
  ~Client() { hang_up(); }

  // One shower for each energy, `showers_per_energy` times. Throws Refused or Error. Never sends a request twice.
  Showers generate(const Request& request) {
    const std::size_t expected =
        request.incident_energies_mev.size() * static_cast<std::size_t>(request.showers_per_energy);
    return ask(detail::body_of(request, false), "application/x-npz",
               [expected](const std::string& answer) { return detail::showers_of(answer, expected); });
  }

  // What the request would take on a QPU: a dry run, which draws and bills nothing. Throws Refused or Error; Refused
  // with status 422 if the request's sampler bills nothing.
  Estimate estimate(const Request& request) {
    return ask(detail::body_of(request, true), "application/json",
               [](const std::string& answer) { return detail::EstimateParser(answer).parse(); });
  }

 private:
  template <typename Reader>
  auto ask(const std::string& body, const char* accept, Reader read) -> decltype(read(body)) {
    std::string head = "POST /generate HTTP/1.1\r\nHost: " + host_ + ":" + std::to_string(port_) +
                       "\r\nContent-Type: application/json\r\nAccept: " + accept + "\r\nContent-Length: " +
                       std::to_string(body.size()) + "\r\n";
    if (!api_key_.empty()) head += "Authorization: Bearer " + api_key_ + "\r\n";
    try {
      connect_if_needed();
      send_all(head + "\r\n" + body);
      const Response response = receive();
      if (response.closes) hang_up();
      if (response.status != 200) throw Refused(response.status, response.body, response.retry_after_s);
      return read(response.body);
    } catch (const Refused&) {
      throw;
    } catch (...) {
      hang_up();  // what is left of a half-read answer must not be taken for the next one
      throw;
    }
  }

  struct Response {
    int status = 0;
    int retry_after_s = -1;
    bool closes = false;
    std::string body;
  };

  void hang_up() {
    if (socket_ >= 0) ::close(socket_);
    socket_ = -1;
  }

  void connect_if_needed() {
    if (socket_ >= 0) {
      // Readable before a request was sent: the server has closed an idle connection.
      pollfd state{socket_, POLLIN, 0};
      if (::poll(&state, 1, 0) == 0) return;
      hang_up();
    }
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    const int failed = ::getaddrinfo(host_.c_str(), std::to_string(port_).c_str(), &hints, &found);
    if (failed != 0) throw Error(host_ + ": " + ::gai_strerror(failed));
    int error = 0;
    for (addrinfo* one = found; one != nullptr && socket_ < 0; one = one->ai_next) {
      socket_ = ::socket(one->ai_family, one->ai_socktype, one->ai_protocol);
      if (socket_ < 0) {
        error = errno;
        continue;
      }
      timeval limit{timeout_s_, 0};
      ::setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
      ::setsockopt(socket_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
      if (::connect(socket_, one->ai_addr, one->ai_addrlen) != 0) {
        error = errno;
        hang_up();
      }
    }
    ::freeaddrinfo(found);
    if (socket_ < 0) throw Error(host_ + ":" + std::to_string(port_) + ": " + std::strerror(error));
  }

  void send_all(const std::string& data) {
    for (std::size_t sent = 0; sent < data.size();) {
      const ssize_t step = ::send(socket_, data.data() + sent, data.size() - sent, MSG_NOSIGNAL);
      if (step < 0 && errno == EINTR) continue;
      if (step <= 0) throw Error(std::string("sending failed: ") + std::strerror(errno));
      sent += static_cast<std::size_t>(step);
    }
  }

  void receive_some(std::string& into) {
    char block[65536];
    ssize_t step = -1;
    do {
      step = ::recv(socket_, block, sizeof block, 0);
    } while (step < 0 && errno == EINTR);
    if (step < 0) throw Error(std::string("receiving failed: ") + std::strerror(errno));
    if (step == 0) throw Error("the server closed the connection before its answer was whole");
    into.append(block, static_cast<std::size_t>(step));
  }

  // The value of a header (names in lower case), empty if there is none.
  static std::string header(const std::string& lower_head, const std::string& name) {
    const std::size_t at = lower_head.find("\r\n" + name + ":");
    if (at == std::string::npos) return "";
    std::size_t from = at + name.size() + 3;
    while (from < lower_head.size() && lower_head[from] == ' ') ++from;
    return lower_head.substr(from, lower_head.find("\r\n", from) - from);
  }

  Response receive() {
    std::string data;
    std::size_t end = std::string::npos;
    while ((end = data.find("\r\n\r\n")) == std::string::npos) {
      if (data.size() > 65536) throw Error("the answer has no end of its head");
      receive_some(data);
    }
    std::string head = data.substr(0, end + 2);
    for (char& c : head) {
      if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    }
    Response response;
    if (head.compare(0, 7, "http/1.") != 0 || head.size() < 12) throw Error("the answer is not HTTP");
    response.status = std::atoi(head.c_str() + 9);
    const std::string length = header(head, "content-length"), after = header(head, "retry-after");
    if (length.empty()) throw Error("the answer does not say its length");
    if (!after.empty()) response.retry_after_s = std::atoi(after.c_str());
    response.closes = header(head, "connection") == "close";
    const std::size_t size = std::strtoull(length.c_str(), nullptr, 10);
    response.body = data.substr(end + 4);
    response.body.reserve(size);
    while (response.body.size() < size) receive_some(response.body);
    if (response.body.size() > size) throw Error("the answer is longer than it says");
    return response;
  }

  std::string host_;
  int port_;
  std::string api_key_;
  int timeout_s_;
  int socket_ = -1;
};

}  // namespace qshower

#endif
