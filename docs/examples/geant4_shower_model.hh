// Geant4 fast simulation with qshower: the electrons of an event are collected, and Flush(), which Geant4 (11.1 and
// later) calls at the event's end, gets all their showers in one request and places the deposits at the voxels'
// positions.
//
// In the detector's ConstructSDandField(), once per thread:
//
//     new QShowerModel("qshower", region, qshower::Options{"http://127.0.0.1:8000"}, 3.4 * CLHEP::mm);
//
// The voxels' frame is the shower's: z along the particle's direction from where it entered the region, x towards
// growing pseudorapidity, y towards growing azimuth (along the beam: the detector's x and -y). Depth is no part of the
// model's geometry: give the pitch of the layers.
#ifndef QSHOWER_GEANT4_SHOWER_MODEL_HH
#define QSHOWER_GEANT4_SHOWER_MODEL_HH

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "CLHEP/Units/SystemOfUnits.h"
#include "G4Electron.hh"
#include "G4Event.hh"
#include "G4Exception.hh"
#include "G4FastStep.hh"
#include "G4FastTrack.hh"
#include "G4LogicalVolume.hh"
#include "G4Navigator.hh"
#include "G4ParticleDefinition.hh"
#include "G4Positron.hh"
#include "G4RunManager.hh"
#include "G4Step.hh"
#include "G4StepPoint.hh"
#include "G4ThreeVector.hh"
#include "G4TouchableHandle.hh"
#include "G4TouchableHistory.hh"
#include "G4Track.hh"
#include "G4TransportationManager.hh"
#include "G4VFastSimulationModel.hh"
#include "G4VPhysicalVolume.hh"
#include "G4VSensitiveDetector.hh"
#include "qshower.hpp"

class QShowerModel : public G4VFastSimulationModel {
 public:
  QShowerModel(const G4String& name, G4Region* region, qshower::Options options, G4double layer_pitch,
               G4double lowest_energy = 1 * CLHEP::GeV, G4double highest_energy = 1 * CLHEP::TeV)
      : G4VFastSimulationModel(name, region),
        client_(std::move(options)),
        layer_pitch_(layer_pitch),
        lowest_energy_(lowest_energy),
        highest_energy_(highest_energy) {}

  G4bool IsApplicable(const G4ParticleDefinition& particle) override {
    return &particle == G4Electron::Definition() || &particle == G4Positron::Definition();
  }

  // Outside of the model's domain Geant4 goes on by itself.
  G4bool ModelTrigger(const G4FastTrack& fast) override {
    const G4double energy = fast.GetPrimaryTrack()->GetKineticEnergy();
    return energy >= lowest_energy_ && energy <= highest_energy_;
  }

  void DoIt(const G4FastTrack& fast, G4FastStep& step) override {
    const G4Track* track = fast.GetPrimaryTrack();
    client_.collect(track->GetKineticEnergy() / CLHEP::MeV);
    entries_.push_back({track->GetPosition(), track->GetMomentumDirection()});
    step.KillPrimaryTrack();
    step.ProposePrimaryTrackPathLength(0);
    step.ProposeTotalEnergyDeposited(0);  // the deposits come in Flush()
  }

  void Flush() override {
    if (entries_.empty()) return;
    qshower::Request request;
    request.sampler = "gibbs";
    // The same showers for the same event, whatever else runs.
    request.seed = static_cast<std::uint64_t>(G4RunManager::GetRunManager()->GetCurrentEvent()->GetEventID());
    const qshower::Result<qshower::Showers> showers = client_.flush(request);
    if (!showers) {
      Abort(showers.error());
      return;
    }
    if (centres_.empty()) {
      qshower::Result<std::vector<qshower::VoxelCentre>> centres = qshower::voxel_centres(showers->geometry);
      if (!centres) {
        Abort(centres.error());
        return;
      }
      centres_ = std::move(*centres);
    }
    for (std::size_t shower = 0; shower < entries_.size(); ++shower) Place(entries_[shower], showers->row(shower));
    entries_.clear();
  }

 private:
  struct Entry {
    G4ThreeVector position;
    G4ThreeVector direction;
  };

  // An event whose energy is missing must not pass for a whole one.
  void Abort(const qshower::Error& error) {
    client_.discard();
    entries_.clear();
    G4Exception("QShowerModel::Flush", "qshower", EventMustBeAborted, error.message.c_str());
  }

  void Place(const Entry& entry, const float* energies_mev) {
    const G4ThreeVector z = entry.direction.unit();
    const G4double across = std::hypot(z.x(), z.y());
    const G4ThreeVector phi = across > 0 ? G4ThreeVector(-z.y() / across, z.x() / across, 0) : G4ThreeVector(0, -1, 0);
    const G4ThreeVector eta = z.cross(phi);
    for (std::size_t voxel = 0; voxel < centres_.size(); ++voxel) {
      if (energies_mev[voxel] <= 0) continue;
      const qshower::VoxelCentre& centre = centres_[voxel];
      const G4double depth = (centre.layer + 0.5) * layer_pitch_;
      Deposit(static_cast<G4double>(energies_mev[voxel]) * CLHEP::MeV,
              entry.position + depth * z + centre.x_mm * CLHEP::mm * eta + centre.y_mm * CLHEP::mm * phi);
    }
  }

  // To the sensitive detector of the volume at `position`, if it has one. The step has no track: that has ended.
  void Deposit(G4double energy, const G4ThreeVector& position) {
    if (navigator_.GetWorldVolume() == nullptr) {
      const G4TransportationManager* manager = G4TransportationManager::GetTransportationManager();
      navigator_.SetWorldVolume(manager->GetNavigatorForTracking()->GetWorldVolume());
    }
    const G4VPhysicalVolume* volume = navigator_.LocateGlobalPointAndSetup(position);
    if (volume == nullptr) return;
    G4VSensitiveDetector* detector = volume->GetLogicalVolume()->GetSensitiveDetector();
    if (detector == nullptr) return;
    G4Step step;
    step.GetPreStepPoint()->SetPosition(position);
    step.GetPreStepPoint()->SetTouchableHandle(G4TouchableHandle(navigator_.CreateTouchableHistory()));
    step.GetPostStepPoint()->SetPosition(position);
    step.SetTotalEnergyDeposit(energy);
    detector->Hit(&step);
  }

  qshower::Client client_;
  G4double layer_pitch_;
  G4double lowest_energy_;
  G4double highest_energy_;
  std::vector<Entry> entries_;
  std::vector<qshower::VoxelCentre> centres_;
  G4Navigator navigator_;
};

#endif
