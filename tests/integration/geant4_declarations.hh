// The few declarations of Geant4 that docs/examples/geant4_shower_model.hh uses, with bodies that do just enough to run
// it: Geant4 itself is in no package index. They say nothing of whether the example does the right thing inside of
// Geant4; only that it compiles against these signatures, collects, asks once and places the deposits.
#ifndef GEANT4_DECLARATIONS_HH
#define GEANT4_DECLARATIONS_HH

#include <cmath>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace CLHEP {
constexpr double MeV = 1, GeV = 1e3, TeV = 1e6, mm = 1;
}
using G4double = double;
using G4bool = bool;
using G4int = int;
using G4String = std::string;
class G4Region {};

class G4ThreeVector {
 public:
  G4ThreeVector(double x = 0, double y = 0, double z = 0) : x_(x), y_(y), z_(z) {}
  double x() const { return x_; }
  double y() const { return y_; }
  double z() const { return z_; }
  double mag() const { return std::sqrt(x_ * x_ + y_ * y_ + z_ * z_); }
  G4ThreeVector unit() const { return {x_ / mag(), y_ / mag(), z_ / mag()}; }
  G4ThreeVector cross(const G4ThreeVector& o) const {
    return {y_ * o.z_ - z_ * o.y_, z_ * o.x_ - x_ * o.z_, x_ * o.y_ - y_ * o.x_};
  }
  friend G4ThreeVector operator+(const G4ThreeVector& a, const G4ThreeVector& b) {
    return {a.x_ + b.x_, a.y_ + b.y_, a.z_ + b.z_};
  }
  friend G4ThreeVector operator*(double s, const G4ThreeVector& v) { return {s * v.x_, s * v.y_, s * v.z_}; }

 private:
  double x_, y_, z_;
};

class G4ParticleDefinition {};
struct G4Electron {
  static G4ParticleDefinition* Definition() {
    static G4ParticleDefinition one;
    return &one;
  }
};
struct G4Positron {
  static G4ParticleDefinition* Definition() {
    static G4ParticleDefinition one;
    return &one;
  }
};

class G4Track {
 public:
  G4Track(double energy, G4ThreeVector position, G4ThreeVector direction)
      : energy_(energy), position_(position), direction_(direction) {}
  G4double GetKineticEnergy() const { return energy_; }
  const G4ThreeVector& GetPosition() const { return position_; }
  const G4ThreeVector& GetMomentumDirection() const { return direction_; }

 private:
  double energy_;
  G4ThreeVector position_, direction_;
};

class G4FastTrack {
 public:
  explicit G4FastTrack(const G4Track& track) : track_(&track) {}
  const G4Track* GetPrimaryTrack() const { return track_; }

 private:
  const G4Track* track_;
};

struct G4FastStep {
  bool killed = false;
  void KillPrimaryTrack() { killed = true; }
  void ProposePrimaryTrackPathLength(G4double) {}
  void ProposeTotalEnergyDeposited(G4double) {}
};

class G4VFastSimulationModel {
 public:
  G4VFastSimulationModel(const G4String&, G4Region*, G4bool = false) {}
  virtual ~G4VFastSimulationModel() = default;
  virtual G4bool IsApplicable(const G4ParticleDefinition&) = 0;
  virtual G4bool ModelTrigger(const G4FastTrack&) = 0;
  virtual void DoIt(const G4FastTrack&, G4FastStep&) = 0;
  virtual void Flush() {}
};

class G4VTouchable {};
class G4TouchableHistory : public G4VTouchable {};
class G4TouchableHandle {
 public:
  explicit G4TouchableHandle(G4VTouchable* touchable = nullptr) : held_(touchable) {}

 private:
  std::shared_ptr<G4VTouchable> held_;
};

class G4StepPoint {
 public:
  void SetPosition(const G4ThreeVector& position) { position_ = position; }
  const G4ThreeVector& GetPosition() const { return position_; }
  void SetTouchableHandle(const G4TouchableHandle& handle) { handle_ = handle; }

 private:
  G4ThreeVector position_;
  G4TouchableHandle handle_;
};

class G4Step {
 public:
  G4StepPoint* GetPreStepPoint() { return &pre_; }
  G4StepPoint* GetPostStepPoint() { return &post_; }
  void SetTotalEnergyDeposit(G4double energy) { energy_ = energy; }
  G4double GetTotalEnergyDeposit() const { return energy_; }

 private:
  G4StepPoint pre_, post_;
  double energy_ = 0;
};

class G4VSensitiveDetector {
 public:
  virtual ~G4VSensitiveDetector() = default;
  G4bool Hit(G4Step* step) { return ProcessHits(step, nullptr); }

 protected:
  virtual G4bool ProcessHits(G4Step*, G4TouchableHistory*) = 0;
};

class G4LogicalVolume {
 public:
  G4VSensitiveDetector* detector = nullptr;
  G4VSensitiveDetector* GetSensitiveDetector() const { return detector; }
};

class G4VPhysicalVolume {
 public:
  G4LogicalVolume logical;
  G4LogicalVolume* GetLogicalVolume() const { return const_cast<G4LogicalVolume*>(&logical); }
};

class G4Navigator {
 public:
  void SetWorldVolume(G4VPhysicalVolume* world) { world_ = world; }
  G4VPhysicalVolume* GetWorldVolume() const { return world_; }
  G4VPhysicalVolume* LocateGlobalPointAndSetup(const G4ThreeVector&) { return world_; }
  G4TouchableHistory* CreateTouchableHistory() const { return new G4TouchableHistory; }

 private:
  G4VPhysicalVolume* world_ = nullptr;
};

class G4TransportationManager {
 public:
  static G4TransportationManager* GetTransportationManager() {
    static G4TransportationManager one;
    return &one;
  }
  G4Navigator* GetNavigatorForTracking() const { return const_cast<G4Navigator*>(&navigator_); }

 private:
  G4Navigator navigator_;
};

struct G4Event {
  int id = 0;
  G4int GetEventID() const { return id; }
};

class G4RunManager {
 public:
  G4Event event;
  static G4RunManager* GetRunManager() {
    static G4RunManager one;
    return &one;
  }
  const G4Event* GetCurrentEvent() const { return &event; }
};

enum G4ExceptionSeverity { EventMustBeAborted };
inline void G4Exception(const char* origin, const char*, G4ExceptionSeverity, const char* said) {
  std::cout << "aborted " << origin << " " << said << "\n";
}

#endif
